"""Writes the fixtures that hold core/models to SiT (willisma/SiT) and REPA (sihyun-yu/REPA): run by hand, results are committed.

    python tests/reference/sit.py [core/models/tests/fixtures/sit]

Needs torch, timm and what models.py needs. Neither repository is a package: the modules are DiT's, as models.py has them; the paths and what
the network should answer are written down from `transport/path.py` (SiT, `ICPlan`) and `loss.py` (REPA). Each fixture is a description as
their scripts are told, a checkpoint as their training saves it, and what is expected.
"""

import argparse
import json
import pathlib
import sys

import torch
from torch import nn

OUT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else "core/models/tests/fixtures/sit")

from models import DiT, randomise  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

STRUCTURE = dict(input_size=6, patch_size=2, in_channels=2, hidden_size=12, depth=3, num_heads=3, mlp_ratio=2.0, class_dropout_prob=0.1, num_classes=5)


class Embedded(nn.Module):
    """With labels, as the scripts call it."""

    def __init__(self, learn_sigma):
        super().__init__()
        size = STRUCTURE["input_size"]
        self.net = DiT(STRUCTURE | dict(image=[STRUCTURE["in_channels"], size, size], learn_sigma=learn_sigma))

    def forward(self, x, t, labels):
        return self.net(x, t, self.net.y_embedder.embedding_table(labels))


def linear_sit(t, image, noise):
    """`ICPlan`: x_t = t x1 + (1 - t) x0 and u_t = x1 - x0, where x1 is the image and x0 the noise."""
    return t * image + (1 - t) * noise, image - noise


def linear_repa(t, image, noise):
    """alpha = 1 - t, sigma = t; the target is d_alpha images + d_sigma noises."""
    return (1 - t) * image + t * noise, noise - image


def write(name, seed, path, learn_sigma, description, rename=lambda name: name, more=()):
    generator = torch.Generator().manual_seed(seed)
    model = Embedded(learn_sigma)
    randomise(model, generator)
    shape = (4, STRUCTURE["in_channels"], STRUCTURE["input_size"], STRUCTURE["input_size"])
    image, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    times = torch.tensor([0.0, 0.125, 0.7, 1.0])
    noisy, target = path(times.view(-1, 1, 1, 1), image, noise)
    labels = torch.tensor([2, 0, 4, 5])
    condition = model.net.y_embedder.embedding_table(labels).detach().requires_grad_()
    answer = model.net(noisy, times, condition)
    cotangent = torch.randn(shape, generator=generator)
    (gradient,) = torch.autograd.grad((answer * cotangent).sum(), condition)
    assert torch.equal(answer, model(noisy, times, labels))
    tensors = {
        "input.image": image, "input.noise": noise, "input.times": times, "input.condition": condition, "input.cotangent": cotangent,
        "output.noisy": noisy, "output.target": target, "output.answer": answer, "gradient.condition": gradient,
    }  # fmt: skip
    print(name, "answer max", answer.abs().max().item(), "gradient max", gradient.abs().max().item())
    OUT.mkdir(parents=True, exist_ok=True)
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, OUT / f"{name}.expected.safetensors")
    (OUT / f"{name}.expected.safetensors").chmod(0o644)
    (OUT / f"{name}.json").write_text(json.dumps(description | STRUCTURE) + "\n")
    kept = {rename(n): v.detach().clone() for n, v in model.net.state_dict().items()}
    kept |= {n: torch.randn(shape, generator=generator) for n, shape in more}
    saved = {"ema": kept, "opt": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]}}
    saved |= {"args": argparse.Namespace(model="SiT-XL/2", resolution=256), "steps": 400000}
    if not more:  # The weights that training itself uses are others than their moving average.
        saved = {"model": {n: v + 1 for n, v in kept.items()}} | saved
    torch.save(saved, OUT / f"{name}.pt")


def legacy(name):
    """As `load_legacy_checkpoints` finds it, with `encoder_depth` 2."""
    parts = name.split(".")
    if parts[0] == "blocks" and int(parts[1]) >= 2:
        parts[:2] = ["decoder_blocks", str(int(parts[1]) - 2)]
    return ".".join(parts)


if __name__ == "__main__":
    projectors = [(f"projectors.{n}.{layer}.{part}", s) for n in range(2) for layer in (0, 2, 4) for part, s in (("weight", (3, 3)), ("bias", (3,)))]
    write("sit", 1, linear_sit, True, {"model": "SiT", "trained_with": "SiT", "path_type": "Linear", "prediction": "velocity"})
    write("repa", 2, linear_repa, False, {"model": "SiT", "trained_with": "REPA", "path_type": "linear", "qk_norm": False}, more=projectors)
    write("repa_legacy", 3, linear_repa, False, {"model": "SiT", "trained_with": "REPA", "encoder_depth": 2}, legacy, projectors)
