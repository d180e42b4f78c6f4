"""Writes the fixtures that hold masked autoencoders and TTT-MAE to transformers: run by hand, after methods.py; the results are committed.

    OMP_NUM_THREADS=1 python tests/reference/masked.py

Needs torch, torchvision, transformers, safetensors. It writes

- core/models/tests/fixtures/masked/: config.json and model.safetensors as `save_pretrained` writes them, of a small network with random
  values, and expected.safetensors with inputs, reconstructions, losses (with and without `norm_pix_loss`) and gradients;
- core/engine/tests/fixtures/methods/masked.*: a network under dtta's names with a classifier, images, and every parameter that moved
  after three batches of TTT-MAE; and in methods.json the method's settings.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import ViTMAEConfig, ViTMAEForPreTraining

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from methods import BATCHES, CLASSES, SIZE, uniform  # noqa: E402

MODELS = ROOT / "core/models/tests/fixtures/masked"
METHODS = ROOT / "core/engine/tests/fixtures/methods"
SETTINGS = {"steps": 2, "masks": 3, "mask_ratio": 0.7, "micro_batch": 4, "optimizer": {"kind": "sgd", "learning_rate": 0.02, "momentum": 0.9}}


def make(size, channels, patch, depth, norm_pix_loss, mask_ratio, seed):
    torch.manual_seed(seed)
    config = ViTMAEConfig(
        hidden_size=24,
        num_hidden_layers=depth,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=size,
        patch_size=patch,
        num_channels=channels,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=28,
        norm_pix_loss=norm_pix_loss,
        mask_ratio=mask_ratio,
        layer_norm_eps=1e-5,
        attn_implementation="eager",
    )
    model = ViTMAEForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "pos" in name:
            continue
        draw = torch.randn(p.shape, generator=generator)
        if p.dim() > 2 or "token" in name:
            p.data = 0.5 * draw
        elif p.dim() == 2:
            p.data = draw * p.shape[1] ** -0.5
        else:
            p.data = 0.3 * draw + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


def ours(named):
    """Parameters of transformers by dtta's names, with query, key and value as one."""
    layers = {"o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    whole = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "vit.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    }
    found, parts = {}, {}
    for name, tensor in named.items():
        path = name.split(".")
        if name in whole:
            found[whole[name]] = tensor
        elif "layers" in path or "decoder_layers" in path:
            place = path.index("decoder_layers" if "decoder_layers" in path else "layers")
            block = f"{'decoder_blocks' if path[0] == 'decoder' else 'blocks'}.{path[place + 1]}"
            if path[-2] in ("q_proj", "k_proj", "v_proj"):
                parts.setdefault(f"{block}.attn.qkv.{path[-1]}", {})[path[-2]] = tensor
            else:
                found[f"{block}.{layers[path[-2]]}.{path[-1]}"] = tensor
        elif path[1] == "layernorm":
            found[f"norm.{path[-1]}"] = tensor
        else:
            found[name.removeprefix("decoder.")] = tensor
    for name, each in parts.items():
        found[name] = torch.cat([each["q_proj"], each["k_proj"], each["v_proj"]])
    return found


def saved(tensors, path):
    save_file({n: t.detach().clone().contiguous() for n, t in tensors.items()}, path)


def parity():
    model = make(size=16, channels=3, patch=4, depth=2, norm_pix_loss=True, mask_ratio=0.7, seed=3)
    shutil.rmtree(MODELS, ignore_errors=True)
    model.save_pretrained(MODELS)
    generator = torch.Generator().manual_seed(9)
    images = torch.randn(3, 3, 16, 16, generator=generator)
    noise = torch.rand(3, 16, generator=generator)
    out = model(images, noise=noise)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = ours(dict(zip(parameters, torch.autograd.grad(out.loss, list(parameters.values())))))
    each = torch.stack([model(images[n : n + 1], noise=noise[n : n + 1]).loss for n in range(len(images))])
    tensors = {"input.images": images, "input.noise": noise, "output.reconstruction": out.logits, "output.loss": each}
    tensors |= {f"gradient.{n}": g for n, g in gradients.items()}
    model.config.norm_pix_loss = False
    tensors["output.loss_of_pixels"] = torch.stack([model(images[n : n + 1], noise=noise[n : n + 1]).loss for n in range(len(images))])
    # The whole image, in its order: what the class token sees does not depend on that.
    model.vit.config.mask_ratio = 0.0
    whole = model.vit(images, noise=torch.arange(16.0).repeat(3, 1))
    tensors["output.features"] = whole.last_hidden_state[:, 0]
    saved(tensors, MODELS / "expected.safetensors")
    print("losses", each.tolist(), "gradients to", max(g.abs().max().item() for g in gradients.values()))


def drawn(sample, step, number, patches):
    """Noise under which transformers keeps the patches that dtta keeps."""
    draws = uniform("mask", sample, step, number)
    return torch.tensor([next(draws) for _ in range(patches)], dtype=torch.double)


def method():
    model = make(size=8, channels=3, patch=2, depth=1, norm_pix_loss=True, mask_ratio=SETTINGS["mask_ratio"], seed=5)
    generator = torch.Generator().manual_seed(11)
    images = torch.randn(BATCHES, SIZE, 3, 8, 8, generator=generator) * 0.7
    classifier = {"head.weight": torch.randn(CLASSES, 24, generator=generator), "head.bias": torch.randn(CLASSES, generator=generator)}
    saved(ours(dict(model.named_parameters())) | classifier, METHODS / "masked.safetensors")
    decoder = dict(width=16, depth=2, heads=2, hidden_width=28, norm_pix_loss=True)
    config = dict(kind="vit", image=[3, 8, 8], classes=CLASSES, patch_size=2, width=24, depth=1, heads=3, hidden_width=40)
    config |= dict(fixed_positions=True, epsilon=1e-5, decoder=decoder)
    (METHODS / "masked.json").write_text(json.dumps(config) + "\n")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    moving = [p for p in model.parameters() if p.requires_grad]
    settings = dict(SETTINGS["optimizer"])
    optimizer = torch.optim.SGD(moving, lr=settings["learning_rate"], momentum=settings["momentum"])
    for b in range(BATCHES):
        for step in range(SETTINGS["steps"]):
            masks = range(SETTINGS["masks"])
            noise = torch.stack([drawn(f"{b}/{n}", step, m, 16) for n in range(SIZE) for m in masks])
            loss = model(images[b].repeat_interleave(len(masks), 0), noise=noise).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"batch {b}, step {step}: loss {loss.item():.4f}")
    moved = ours({n: p for n, p in model.named_parameters() if p.requires_grad})
    source = ours(before)
    print("moved by", max(float((p.detach() - source[n]).abs().max()) for n, p in moved.items()))
    saved({"images": images} | {f"ttt_mae/student/{n}": p for n, p in moved.items()}, METHODS / "masked.expected.safetensors")
    path = METHODS / "methods.json"
    document = json.loads(path.read_text())
    document["methods"]["ttt_mae"] = SETTINGS
    document["used"]["masked/ttt_mae"] = [SIZE] * BATCHES
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    parity()
    method()
    for path in [*MODELS.iterdir(), *METHODS.iterdir()]:
        path.chmod(0o644)
