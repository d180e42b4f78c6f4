"""Writes the fixtures that hold the published backbones and their preprocessing to timm, torchvision and Pillow: run by hand, results
are committed.

    python tests/reference/backbones.py

Needs torch, torchvision, timm, safetensors, Pillow before version 13. It writes

- core/models/tests/fixtures/backbones/NAME/: config.json and model.safetensors as timm's `save_for_hf` writes them, of a small network with
  random values, and expected.safetensors with inputs, outputs and gradients;
- .../ours/NAME.*: the same of networks that the libraries build but no published configuration describes; NAME.json is a model file;
- .../lite.safetensors: what EfficientNet-Lite0 answers at full size, with values that both sides compute (`formula`);
- .../structures.json: for every architecture a digest of its tensors' names and shapes;
- .../fields.json: the fields of timm's configurations with their defaults;
- .../preprocessing.safetensors and preprocessing.json: an image, and what the libraries make of it;
- core/models/src/published/torchvision.json: how torchvision prepares images for each of its weights;
- core/data/tests/fixtures/resize.safetensors: an image, and what Pillow resizes it to.
"""

import functools
import hashlib
import inspect
import json
import math
import pathlib
import shutil

import numpy
import PIL
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models import PretrainedCfg
from timm.models import _efficientnet_builder as builder
from timm.models._hub import save_for_hf
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "core/models/tests/fixtures/backbones"
TORCHVISION = ROOT / "core/models/src/published/torchvision.json"
RESIZE = ROOT / "core/data/tests/fixtures/resize.safetensors"

# --- values -----------------------------------------------------------------------------------------------------------------


def randomise(model, seed):
    """Values under which every path matters: LayerScale would start at 1e-6, running statistics at 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith("num_batches_tracked"):
            continue
        draw = torch.randn(p.shape, generator=generator)
        norm = p.dim() == 1 and name.endswith("weight")
        if name.endswith("running_var"):
            p.data = 0.5 + draw.abs()
        elif "gamma" in name or "layer_scale" in name:
            p.data = 0.4 + 0.3 * draw
        elif p.dim() == 3:
            p.data = 0.5 * draw
        elif p.dim() > 1:
            p.data = draw * (1.4 if p.dim() == 4 else 1.0) * p[0].numel() ** -0.5
        else:
            p.data = 0.3 * draw + (1.0 if norm else 0.0)


def formula(name, shape):
    """Numbers that every language computes alike: splitmix64 of the place, from a hash (FNV-1a) of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & (2**64 - 1)
    with numpy.errstate(over="ignore"):
        z = numpy.arange(1, math.prod(shape) + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15) + numpy.uint64(seed)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    unit = (z >> numpy.uint64(40)).astype(numpy.float64) / 2.0**23 - 1.0
    if name.endswith("running_var"):
        values = 1.0 + 0.5 * unit
    elif len(shape) == 1:
        values = 0.2 * unit + (1.0 if name.endswith("weight") else 0.0)
    elif name == "images":
        values = 2.0 * unit
    else:
        values = unit * (5.0 / math.prod(shape[1:])) ** 0.5
    return torch.from_numpy(values.astype(numpy.float32).reshape(shape))


def compute(model, _=0):
    state = {n: formula(n, tuple(t.shape)) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    model.load_state_dict(state, strict=False)


# --- parity -----------------------------------------------------------------------------------------------------------------


def expected(path, model, size, differentiated, features):
    """Inputs, outputs and gradients. `features` gives what the classifier takes."""
    model.eval()
    generator = torch.Generator().manual_seed(7)
    images = torch.randn((2, *size), generator=generator).requires_grad_()
    logits = model(images)
    cotangent = torch.randn(logits.shape, generator=generator)
    parameters = dict(model.named_parameters())
    leaves = {"images": images} | {n: parameters[n] for n in differentiated}
    gradients = torch.autograd.grad((logits * cotangent).sum(), list(leaves.values()))
    tensors = {"input.images": images, "input.cotangent": cotangent, "output.logits": logits, "output.features": features(images)}
    tensors |= {f"gradient.{n}": g for n, g in zip(leaves, gradients)}
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path)
    largest = max(g.abs().max().item() for g in gradients)
    print(path.parent.name, path.name, f"logits to {logits.abs().max():.2f}, gradients to {largest:.2f}")


def published(name, architecture, size, differentiated, values=randomise, **model_args):
    """A folder as timm saves it; without weights where both sides compute them."""
    model = timm.create_model(architecture, **model_args)
    values(model, len(name))
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    # What is not square is resized to its extents, so that no shape but the square needs another rule.
    data = {"crop_mode": "center" if size[1] == size[2] else "squash"}
    if "img_size" not in model_args:
        data["input_size"] = size
    save_for_hf(model, folder, safe_serialization=True, data_config=data)
    if values is compute:
        (folder / "model.safetensors").unlink()
    features = lambda x: model.forward_head(model.forward_features(x), pre_logits=True)
    expected(folder / "expected.safetensors", model, size, differentiated, features)


def ours(name, config, model, differentiated, features):
    """A model file beside the tensors of a network that a library built."""
    randomise(model, len(name))
    folder = OUT / "ours"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    expected(folder / f"{name}.expected.safetensors", model, tuple(config["image"]), differentiated, features(model))


def parity():
    convnext = dict(depths=(1, 1, 2, 1), dims=(6, 8, 12, 16), num_classes=7)
    some = ["stem.0.bias", "stages.0.blocks.0.gamma", "stages.2.blocks.1.norm.weight", "stages.3.downsample.0.bias", "head.norm.weight"]
    published("convnext", "convnext_tiny", (3, 33, 44), [*some, "stages.1.blocks.0.conv_dw.weight"], **convnext)
    published(
        "convnext_conv_mlp",
        "convnext_tiny_hnf",
        (3, 32, 36),
        ["stages.3.blocks.0.mlp.fc1.weight", "norm_pre.weight", "stages.3.blocks.0.conv_dw.weight"],
        kernel_sizes=(7, 5, 5, 3),
        act_layer="gelu_tanh",
        norm_eps=1e-5,
        ls_init_value=None,
        **convnext | dict(depths=(1, 1, 1, 1)),
    )
    published(
        "convnext_hidden",
        "convnext_large_mlp",
        (3, 32, 32),
        ["head.pre_logits.fc.bias", "head.norm.bias"],
        head_hidden_size=10,
        **convnext | dict(depths=(1, 1, 1, 1)),
    )
    some = ["cls_token", "pos_embed", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "blocks.0.mlp.fc2.bias", "norm.weight"]
    vit = dict(embed_dim=24, num_heads=3, num_classes=7)
    published("vit", "vit_base_patch16_224", (3, 32, 48), some, depth=1, patch_size=8, img_size=(32, 48), **vit)
    some = ["blocks.1.ls2.gamma", "fc_norm.weight", "pos_embed", "cls_token"]
    deit = dict(depth=2, patch_size=8, img_size=32, global_pool="avg", mlp_ratio=2.5, init_values=0.1)
    published("vit_average", "deit3_small_patch16_224", (3, 32, 32), some, **deit, **vit)
    some = ["layer1.0.bn1.weight", "layer1.0.downsample.1.bias", "bn1.bias", "layer2.0.conv1.weight"]
    published("resnet_basic", "resnet18", (3, 33, 40), some, layers=(1, 2, 1, 1), channels=(6, 6, 8, 8), num_classes=7)
    published("resnet_bottleneck", "resnet50", (3, 33, 40), some, layers=(2, 1, 1, 1), channels=(4, 4, 5, 5), num_classes=7)
    group = dict(layers=(1, 1, 1, 1), channels=(32, 32, 32, 32), num_classes=7)
    published("resnet_group", "resnet50_gn", (3, 33, 40), some[:3], values=compute, **group)

    # Three stages of EfficientNet-Lite as timm's class builds them; its functions for Lite know only the published widths.
    stages = [
        dict(kernel=3, stride=1, expansion=1, width=8, blocks=1),
        dict(kernel=3, stride=2, expansion=6, width=8, blocks=2),
        dict(kernel=5, stride=2, expansion=2, width=16, blocks=2),
    ]
    arch = [["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e6_c8"], ["ir_r2_k5_s2_e2_c16"]]
    for name, same, epsilon, size in [("lite", False, 1e-5, (3, 33, 40)), ("lite_same", True, 1e-3, (3, 34, 37))]:
        model = EfficientNet(
            builder.decode_arch_def(arch),
            num_classes=7,
            num_features=20,
            stem_size=12,
            fix_stem=True,
            act_layer=nn.ReLU6,
            norm_layer=functools.partial(nn.BatchNorm2d, eps=epsilon),
            pad_type="same" if same else "",
        )
        config = dict(kind="efficientnet", image=size, classes=7, stem_width=12, stages=stages, features=20, epsilon=epsilon)
        config["padding"] = "same" if same else "symmetric"
        features = lambda model: lambda x: model.forward_head(model.forward_features(x), pre_logits=True)
        some = ["conv_stem.weight", "blocks.1.0.conv_dw.weight", "blocks.2.1.bn2.weight", "bn2.bias", "blocks.0.0.conv_pw.weight"]
        ours(name, config, model, some, features)

    model = torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 40, num_classes=7)
    config = dict(kind="vit", image=(3, 32, 32), classes=7, patch_size=8, width=24, depth=2, heads=3, hidden_width=40)
    names = ["class_token", "encoder.pos_embedding", "encoder.layers.encoder_layer_1.ln_2.bias", "encoder.ln.weight"]
    ours("torchvision_vit", config, model, names, taken_by(lambda model: model.heads))
    settings = [torchvision.models.convnext.CNBlockConfig(*s) for s in [(6, 8, 1), (8, 12, 1), (12, 16, 2), (16, None, 1)]]
    model = torchvision.models.ConvNeXt(settings, num_classes=7)
    config = dict(kind="convnext", image=(3, 33, 44), classes=7, blocks=[1, 1, 2, 1], widths=[6, 8, 12, 16], scale_as_map=True)
    names = ["features.1.0.layer_scale", "features.4.0.weight", "features.5.1.block.2.weight", "classifier.0.bias"]
    ours("torchvision_convnext", config, model, names, taken_by(lambda model: model.classifier[2]))


def taken_by(head):
    """What a model's head is called with."""

    def features(model):
        def call(x):
            seen = []
            hook = head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            model(x)
            hook.remove()
            return seen[0]

        return call

    return features


def lite():
    """EfficientNet-Lite0 at full size, of values that need no file."""
    tensors = {}
    for name in ["efficientnet_lite0", "tf_efficientnet_lite0"]:
        model = timm.create_model(name, num_classes=10).eval()
        compute(model)
        with torch.no_grad():
            images = formula("images", (1, 3, 70, 97))
            tensors[f"{name}.features"] = model.forward_head(model.forward_features(images), pre_logits=True)
            tensors[f"{name}.logits"] = model(images)
        print(name, tensors[f"{name}.logits"].abs().max(), tensors[f"{name}.features"].abs().mean())
    save_file({n: t.contiguous() for n, t in tensors.items()}, OUT / "lite.safetensors")


# --- structures -------------------------------------------------------------------------------------------------------------

TIMM = [f"resnet{n}" for n in (18, 26, 34, 50, 101, 152)] + ["resnet50_gn"]
TIMM += [f"convnext_{n}" for n in "atto femto pico nano tiny tiny_hnf small base large large_mlp xlarge xxlarge".split()]
TIMM += ["test_convnext", "test_convnext2", "test_convnext3"]
TIMM += [f"vit_tiny_patch16_{n}" for n in (224, 384)] + [f"vit_small_patch{p}_{n}" for p in (16, 32) for n in (224, 384)]
TIMM += [f"vit_{s}_patch{p}_{n}" for s in ("base", "large") for p in (16, 32) for n in (224, 384)]
TIMM += ["vit_small_patch8_224", "vit_base_patch8_224", "vit_large_patch14_224", "vit_huge_patch14_224"]
TIMM += ["deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "deit_base_patch16_384"]
TIMM += [f"deit3_{s}_patch16_{n}" for s in ("small", "base", "large") for n in (224, 384)]
TIMM += ["deit3_medium_patch16_224", "deit3_huge_patch14_224"]
TIMM += [f"{tf}efficientnet_lite{n}" for tf in ("", "tf_") for n in range(5)]
TV = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
TV += ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"]
TV += ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]


def digest(model):
    lines = [
        f"{n} {list(t.shape)}\n" for n, t in sorted(model.state_dict().items()) if not n.endswith("num_batches_tracked")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def structures():
    table = {"timm": {}, "torchvision": {}}
    with torch.device("meta"):
        for name in TIMM:
            cfg = timm.create_model(name).pretrained_cfg
            # Some were published without a classifier.
            classes = cfg["num_classes"] or 1000
            model = timm.create_model(name, num_classes=classes)
            kept = dict(input_size=cfg["input_size"], num_classes=classes, interpolation=cfg["interpolation"])
            kept |= dict(crop_pct=cfg["crop_pct"], crop_mode=cfg["crop_mode"], mean=cfg["mean"], std=cfg["std"])
            table["timm"][name] = {"tensors": digest(model), "pretrained_cfg": kept}
    for name in TV:
        with torch.device("meta"):
            try:
                model = torchvision.models.get_model(name)
            except NotImplementedError:
                model = None
        table["torchvision"][name] = digest(model or torchvision.models.get_model(name))
    lines = lambda part: ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in part.items())
    text = ",\n".join(f"  {json.dumps(n)}: {{\n{lines(part)}\n  }}" for n, part in table.items())
    (OUT / "structures.json").write_text("{\n" + text + "\n}\n")


def fields():
    """Arguments that a configuration may have, with their defaults; those that JSON cannot say are null."""

    def of(function, skip=()):
        found = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("self", "kwargs", *skip):
                continue
            value = None if parameter.default is inspect.Parameter.empty else parameter.default
            try:
                found[name] = json.loads(json.dumps(value))
            except TypeError:
                found[name] = None
        return found

    table = {
        "pretrained_cfg": of(PretrainedCfg),
        "resnet50": of(ResNet.__init__),
        "convnext_tiny": of(ConvNeXt.__init__),
        "vit_base_patch16_224": of(VisionTransformer.__init__),
        # The functions that build it take some arguments for themselves and set others.
        "tf_efficientnet_lite0": of(EfficientNet.__init__)
        | {"bn_eps": 1e-3, "bn_momentum": None, "fix_stem": True, "pad_type": "same"},
    }
    (OUT / "fields.json").write_text(json.dumps(table, indent=1) + "\n")


# --- preprocessing ----------------------------------------------------------------------------------------------------------


def picture(height, width, seed):
    """Blurred noise, edges and a gradient, in bytes."""
    rng = numpy.random.default_rng(seed)
    rows, columns = numpy.mgrid[0:height, 0:width]
    image = numpy.stack([rows * 255 // height, columns * 255 // width, (rows * 7 + columns * 3) % 256], axis=2)
    image = image + rng.integers(-60, 60, image.shape)
    image[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 255)
    return numpy.clip(image, 0, 255).astype(numpy.uint8)


def chw(image):
    return torch.from_numpy(numpy.ascontiguousarray(numpy.asarray(image).transpose(2, 0, 1)))


def preprocessing():
    image = Image.fromarray(picture(53, 77, 1))
    tensors, cases = {"image": chw(image).float() / 255}, []
    for interpolation, crop_pct, crop_mode, size in [
        ("bicubic", 0.875, "center", (3, 24, 24)),
        ("bilinear", 0.95, "center", (3, 30, 30)),
        ("bicubic", 1.0, "center", (3, 64, 64)),
        ("bicubic", 0.9, "squash", (3, 24, 33)),
    ]:
        cfg = dict(input_size=size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode)
        cfg |= dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
        tensors[f"timm.{len(cases)}"] = transform(image)
        cases.append(cfg)
    for name, weights in [("resnet50", "IMAGENET1K_V2"), ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")]:
        tensors[f"torchvision.{name}.{weights}"] = torchvision.models.get_weight(f"{enum(name)}.{weights}").transforms()(image)
    # Some pixels of the large ones are enough.
    for name in [name for name in tensors if name.startswith("torchvision")]:
        tensors[name] = tensors[name][:, ::9, ::7].contiguous()
    save_file(tensors, OUT / "preprocessing.safetensors")
    (OUT / "preprocessing.json").write_text(json.dumps({"timm": cases}, indent=1) + "\n")

    # Pillow 13 takes rows before columns for some extents, others of like shape not; before, columns always came first.
    assert int(PIL.__version__.split(".")[0]) < 13, "resizing is compared with Pillow before version 13"
    image = Image.fromarray(picture(29, 41, 2))
    tensors = {"image": chw(image)}
    for name, kernel in [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]:
        for height, width in [(12, 17), (29, 20), (40, 63), (7, 41), (3, 90)]:
            tensors[f"{name}.{height}.{width}"] = chw(image.resize((width, height), kernel))
    save_file(tensors, RESIZE)


def enum(name):
    return torchvision.models.get_model_weights(name).__name__


def weights():
    """Each of torchvision's weights: how it prepares images, and how many classes it tells apart."""
    lines = []
    for name in TV:
        each = []
        for weight in torchvision.models.get_model_weights(name):
            preset = weight.transforms()
            assert preset.antialias
            kept = dict(weights=weight.name, crop=preset.crop_size[0], resize=preset.resize_size[0])
            kept |= dict(interpolation=preset.interpolation.value, mean=preset.mean, std=preset.std)
            each.append(kept | dict(classes=len(weight.meta["categories"])))
        rows = ",\n".join(f"    {json.dumps(row)}" for row in each)
        lines.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
    TORCHVISION.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    weights()
    fields()
    preprocessing()
    structures()
    lite()
    parity()
