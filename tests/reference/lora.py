"""Writes the fixtures that hold factors of low rank to peft and diffusers: run by hand, results are committed.

    python tests/reference/lora.py

Needs torch, peft, accelerate, timm, transformers, diffusers, safetensors. The models are those of the fixtures beside it
(`backbones.py`, `text.py`, `denoisers.py`), read from there. It writes core/models/tests/fixtures/lora/NAME/:

- adapter_config.json and adapter_model.safetensors as peft's `save_pretrained` writes them, or pytorch_lora_weights.safetensors as
  diffusers does, of factors with random values;
- expected.safetensors: inputs, the answer with the factors, `gradient.MODULE.lora_{A,B}.weight` of its product with a cotangent, and
  `merged.MODULE` as `merge_and_unload` leaves each matrix.
"""

import copy
import json
import pathlib
import shutil

import torch
from diffusers import DiTTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import CLIPModel

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "core/models/tests/fixtures"
OUT = FIXTURES / "lora"


def randomise(model, generator):
    """Values of A and B under which every path matters, and attention is not saturated; peft starts with B = 0."""
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.5 * p.shape[1] ** -0.5


def factors(model, prefix):
    """The factors by the names that files have for them, without peft's prefix."""
    return {
        name.removeprefix(prefix).replace(".default.", "."): p
        for name, p in model.named_parameters()
        if "lora_" in name
    }


def check(name, seed, model, config, inputs, answer, save):
    """`answer(model, inputs)` is the model's; `save(adapted, folder)` writes the factors."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    adapted = get_peft_model(model, LoraConfig(**config))
    randomise(adapted, generator)
    adapted.eval()
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save(adapted, folder)
    (folder / "README.md").unlink(missing_ok=True)
    # In double precision: single leaves up to 5e-4 of a gradient in a U-Net of random values.
    precise = copy.deepcopy(adapted).double()
    exact = {n: value.double() if value.is_floating_point() else value for n, value in inputs.items()}
    output = answer(precise.base_model.model, exact)
    cotangent = torch.randn(output.shape, generator=generator)
    named = factors(precise, "base_model.model.")
    gradients = torch.autograd.grad((output * cotangent).sum(), list(named.values()))
    output, gradients = output.float(), [g.float() for g in gradients]
    tensors = {f"input.{n}": value for n, value in inputs.items()}
    tensors |= {"input.cotangent": cotangent, "output": output}
    tensors |= {f"gradient.{n}": g for n, g in zip(named, gradients)}
    modules = sorted({n.rsplit(".lora_", 1)[0] for n in named})
    merged = adapted.merge_and_unload()
    for module in modules:
        tensors[f"merged.{module}"] = merged.get_submodule(module).weight
    after = answer(merged, inputs)
    error = (after - output).abs().max() / output.abs().max()
    print(f"{name}: {len(modules)} modules, output up to {output.abs().max():.3g}, merged within {error:.1e}")
    save_file({n: value.detach().contiguous().clone() for n, value in tensors.items()}, folder / "expected.safetensors")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def of_peft(adapted, folder):
    adapted.save_pretrained(folder)
    # The order of a set.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config["base_model_name_or_path"] = None
    path.write_text(json.dumps(config, indent=2) + "\n")


def of_diffusers(adapted, folder):
    metadata = adapted.peft_config["default"].to_dict()
    metadata["target_modules"] = sorted(metadata["target_modules"])
    layers = get_peft_model_state_dict(adapted)
    layers = {n.removeprefix("base_model.model."): value for n, value in layers.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)


def without_alpha(adapted, folder):
    """As versions before 0.35 wrote it, which did not keep the configuration: α is r."""
    layers = get_peft_model_state_dict(adapted)
    layers = {n.removeprefix("base_model.model."): value for n, value in layers.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def timm():
    folder = FIXTURES / "backbones/vit"
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    model = VisionTransformer(**arguments)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    images = load_file(folder / "expected.safetensors")["input.images"]
    config = dict(r=4, lora_alpha=6, target_modules=["qkv", "attn.proj"])
    check("timm", 1, model, config, {"images": images}, lambda model, inputs: model(inputs["images"]), of_peft)


def clip():
    folder = FIXTURES / "text/clip"
    images = load_file(folder / "expected.safetensors")["input.images"]

    def features(model, inputs):
        pooled = model.vision_model(pixel_values=inputs["images"]).pooler_output
        return model.visual_projection(pooled)

    # Those of the other tower are no part of a backbone.
    pattern = r"(?!text_).*\.self_attn\.(q|v)_proj"
    config = dict(r=2, lora_alpha=3, use_rslora=True, lora_dropout=0.1, target_modules=pattern)
    check("clip", 2, CLIPModel.from_pretrained(folder), config, {"images": images}, features, of_peft)


def dit():
    folder = FIXTURES / "diffusers/dit_one"
    saved = load_file(folder / "expected.safetensors")
    inputs = {n: saved[f"input.{n}"] for n in ["noisy", "times", "labels"]}

    def answer(model, inputs):
        noisy = inputs["noisy"]
        found = model(noisy, timestep=inputs["times"].long(), class_labels=inputs["labels"], return_dict=False)
        return found[0][:, : noisy.shape[1]]

    # Two of the three that this program keeps as one matrix, and not the first two.
    config = dict(r=3, lora_alpha=3, target_modules=["to_q", "to_v"])
    check("dit", 3, DiTTransformer2DModel.from_pretrained(folder / "transformer"), config, inputs, answer, of_peft)


def unet():
    folder = FIXTURES / "diffusers/heads"
    saved = load_file(folder / "expected.safetensors")
    inputs = {"noisy": saved["input.noisy"], "times": saved["input.times"], "labels": saved["input.labels"]}
    inputs["tokens"] = saved["input.slot.tokens"]

    def answer(model, inputs):
        found = model(
            inputs["noisy"],
            inputs["times"].long(),
            encoder_hidden_states=inputs["tokens"],
            class_labels=inputs["labels"],
            return_dict=False,
        )
        # Without the variances.
        return found[0][:, : inputs["noisy"].shape[1]]

    for name, seed, alpha, save in [("unet", 4, 6, of_diffusers), ("unet_older", 5, 2, without_alpha)]:
        model = UNet2DConditionModel.from_pretrained(folder / "unet")
        config = dict(r=2, lora_alpha=alpha, target_modules=["attn2.to_q", "attn2.to_k", "attn2.to_out.0"])
        check(name, seed, model, config, inputs, answer, save)


timm()
clip()
dit()
unet()
