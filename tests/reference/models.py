"""Writes the fixtures that hold core/models to PyTorch: run by hand, results are committed. (Whole models as diffusers saves them come from
`denoisers.py`.)

    python tests/reference/models.py [core/models/tests/fixtures]

Needs torch, torchvision, timm, diffusers, safetensors. Each model gives NAME.json (configuration), NAME.safetensors (weights) and
NAME.expected.safetensors (inputs, outputs, gradients). The DiT follows facebookresearch/DiT (models.py), whose parts come from timm.
"""

import copy
import functools
import json
import math
import pathlib
import sys

import numpy
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from timm.models.vision_transformer import Attention, Mlp, PatchEmbed
from torch import nn
from torchvision.models import ResNet, resnet18, resnet34, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures")


# --- DiT, as the reference has it -------------------------------------------------------------------------------------------


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class TimestepEmbedder(nn.Module):
    def __init__(self, hidden, frequencies=256):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.frequencies = frequencies

    def forward(self, t):
        half = self.frequencies // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / half)
        args = t[:, None].float() * freqs[None]
        return self.mlp(torch.cat([torch.cos(args), torch.sin(args)], dim=-1))


class LabelEmbedder(nn.Module):
    def __init__(self, classes, hidden, dropout):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + (dropout > 0), hidden)


class DiTBlock(nn.Module):
    def __init__(self, hidden, heads, ratio):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden, num_heads=heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden, int(hidden * ratio), act_layer=lambda: nn.GELU(approximate="tanh"), drop=0)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(self, x, c):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_a.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    def __init__(self, hidden, patch, channels):
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden, patch * patch * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def sincos_1d(dim, positions):
    omega = 1.0 / 10000 ** (numpy.arange(dim // 2, dtype=numpy.float64) / (dim / 2.0))
    out = numpy.einsum("m,d->md", positions.reshape(-1), omega)
    return numpy.concatenate([numpy.sin(out), numpy.cos(out)], axis=1)


def sincos_2d(dim, size):
    h, w = numpy.arange(size, dtype=numpy.float32), numpy.arange(size, dtype=numpy.float32)
    grid = numpy.stack(numpy.meshgrid(w, h), axis=0).reshape([2, 1, size, size])
    return numpy.concatenate([sincos_1d(dim // 2, grid[0]), sincos_1d(dim // 2, grid[1])], axis=1)


class DiT(nn.Module):
    def __init__(self, config):
        super().__init__()
        channels, size, _ = config["image"]
        hidden, patch = config["hidden_size"], config["patch_size"]
        self.channels, self.patch = channels, patch
        self.out_channels = channels * 2 if config["learn_sigma"] else channels
        self.spatial = config.get("spatial")
        maps = self.spatial["channels"] if self.spatial else 0
        self.x_embedder = PatchEmbed(size, patch, channels + maps, hidden, bias=True)
        self.t_embedder = TimestepEmbedder(hidden)
        if not self.spatial:
            self.y_embedder = LabelEmbedder(config["num_classes"], hidden, config["class_dropout_prob"])
        table = torch.from_numpy(sincos_2d(hidden, size // patch)).float()
        self.pos_embed = nn.Parameter(table.unsqueeze(0), requires_grad=False)
        blocks = [DiTBlock(hidden, config["num_heads"], config["mlp_ratio"]) for _ in range(config["depth"])]
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(hidden, patch, self.out_channels)

    def unpatchify(self, x):
        h = w = int(x.shape[1] ** 0.5)
        x = x.reshape(x.shape[0], h, w, self.patch, self.patch, self.out_channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(x.shape[0], self.out_channels, h * self.patch, w * self.patch)

    def forward(self, x, t, y):
        """`y` is the class embedding, not the label, or else a map: that is what feedback differentiates."""
        x = self.x_embedder(torch.cat([x, y], dim=1) if self.spatial else x) + self.pos_embed
        c = self.t_embedder(t) if self.spatial else self.t_embedder(t) + y
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))[:, : self.channels]


XL = dict(image=[4, 32, 32], patch_size=2, hidden_size=1152, depth=28, num_heads=16, mlp_ratio=4.0, num_classes=1000)
XL |= dict(class_dropout_prob=0.1, learn_sigma=True)


def randomise(model, generator):
    """Values under which every path matters: adaLN-Zero would start with dead branches."""
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if name == "pos_embed" or name.endswith("num_batches_tracked"):
            continue
        draw = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + draw.abs()
        elif p.dim() > 1:
            gain = 1.6 if p.dim() == 4 else 1.0
            p.data = draw * gain * p[0].numel() ** -0.5
        else:
            p.data = draw * 0.3 + (1.0 if "bn" in name and name.endswith("weight") else 0.0)


def write(name, config, model, inputs, loss_and_outputs, differentiated):
    loss, outputs = loss_and_outputs
    parameters = dict(model.named_parameters())
    leaves = {n: inputs[n] if n in inputs else parameters[n] for n in differentiated}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    expected = {f"input.{n}": v.detach() for n, v in inputs.items()}
    expected |= {f"output.{n}": v.detach() for n, v in outputs.items()}
    expected |= {f"gradient.{n}": g for n, g in zip(leaves, gradients)}
    for n, value in expected.items():
        print(f"{name}: {n} {list(value.shape)} max {value.abs().max():.3g}")
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=2) + "\n")
    for suffix, tensors in [("", model.state_dict()), (".expected", expected)]:
        path = OUT / f"{name}{suffix}.safetensors"
        save_file({n: v.contiguous() for n, v in tensors.items()}, path)
        path.chmod(0o644)


def dit(name, seed, differentiated, **config):
    generator = torch.Generator().manual_seed(seed)
    model = DiT(config)
    randomise(model, generator)
    noisy = torch.randn(3, *config["image"], generator=generator)
    shape = [config["hidden_size"]] if "spatial" not in config else [config["spatial"]["channels"], *config["image"][1:]]
    condition = torch.randn(3, *shape, generator=generator).requires_grad_()
    timesteps = torch.tensor([3, 417, 999])
    noise = model(noisy, timesteps, condition)
    cotangent = torch.randn(noise.shape, generator=generator) * 0.1
    inputs = {"noisy": noisy, "timesteps": timesteps, "condition": condition, "cotangent": cotangent}
    write(name, {"kind": "dit"} | config, model, inputs, ((noise * cotangent).sum(), {"noise": noise}), differentiated)


# --- U-ViT, as the reference has it --------------------------------------------------------------------------------------------


class UViTBlock(nn.Module):
    def __init__(self, config, skip):
        super().__init__()
        width = config["embed_dim"]
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, num_heads=config["num_heads"], qkv_bias=config["qkv_bias"])
        self.mlp = Mlp(width, int(width * config["mlp_ratio"]), act_layer=nn.GELU)
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, x, skip=None):
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """baofff/U-ViT (libs/uvit.py), for images that need not be square."""

    def __init__(self, config):
        super().__init__()
        channels, height, width = config["image"]
        patch, dim = config["patch_size"], config["embed_dim"]
        self.channels, self.patch, self.grid = channels, patch, (height // patch, width // patch)
        self.dim, self.offset = dim, config["time_offset"]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        mlp = [nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim)]
        self.time_embed = nn.Sequential(*mlp) if config["mlp_time_embed"] else nn.Identity()
        self.label_emb = nn.Embedding(config["num_classes"] + (config["class_dropout_prob"] > 0), dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + self.grid[0] * self.grid[1], dim))
        half = config["depth"] // 2
        self.in_blocks = nn.ModuleList([UViTBlock(config, False) for _ in range(half)])
        self.mid_block = UViTBlock(config, False)
        self.out_blocks = nn.ModuleList([UViTBlock(config, True) for _ in range(half)])
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch * patch * channels)
        self.final_layer = nn.Conv2d(channels, channels, 3, padding=1) if config["conv"] else nn.Identity()

    def forward(self, x, t, y):
        """`y` is the class embedding, not the label."""
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        half = self.dim // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / half)
        args = (t + self.offset)[:, None].float() * freqs[None]
        code = torch.cat([torch.cos(args), torch.sin(args)], dim=-1)
        if self.dim % 2:
            code = torch.cat([code, torch.zeros_like(code[:, :1])], dim=-1)
        x = torch.cat([y[:, None], self.time_embed(code)[:, None], x], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        x = self.decoder_pred(self.norm(x))[:, 2:]
        x = x.reshape(x.shape[0], *self.grid, self.patch, self.patch, self.channels)
        x = torch.einsum("bhwpqc->bchpwq", x)
        return self.final_layer(x.reshape(x.shape[0], self.channels, x.shape[2] * self.patch, -1))


def uvit(name, seed, differentiated, **config):
    generator = torch.Generator().manual_seed(seed)
    model = UViT(config)
    randomise(model, generator)
    nn.init.normal_(model.pos_embed, generator=generator)
    noisy = torch.randn(3, *config["image"], generator=generator)
    condition = torch.randn(3, config["embed_dim"], generator=generator).requires_grad_()
    timesteps = torch.tensor([3, 417, 999])
    noise = model(noisy, timesteps, condition)
    cotangent = torch.randn(noise.shape, generator=generator) * 10
    inputs = {"noisy": noisy, "timesteps": timesteps, "condition": condition, "cotangent": cotangent}
    write(name, {"kind": "uvit"} | config, model, inputs, ((noise * cotangent).sum(), {"noise": noise}), differentiated)


# --- torchvision's ResNet, with other widths and stems ---------------------------------------------------------------------------


class TinyResNet(ResNet):
    def __init__(self, config):
        nn.Module.__init__(self)
        norm = config["norm"]
        batch = norm["kind"] == "batch"
        self._norm_layer = nn.BatchNorm2d if batch else functools.partial(nn.GroupNorm, norm["groups"])
        self.inplanes, self.dilation, self.groups, self.base_width = config["widths"][0], 1, 1, 64
        channels, small = config["image"][0], config["stem"] == "small"
        window = dict(kernel_size=3, padding=1) if small else dict(kernel_size=7, stride=2, padding=3)
        self.conv1 = nn.Conv2d(channels, self.inplanes, bias=False, **window)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        block = Bottleneck if config["block"] == "bottleneck" else BasicBlock
        self.stages = len(config["widths"])
        for n, (width, count) in enumerate(zip(config["widths"], config["blocks"])):
            setattr(self, f"layer{n + 1}", self._make_layer(block, width, count, stride=1 if n == 0 else 2))
        self.fc = nn.Linear(config["widths"][-1] * block.expansion, config["classes"])

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for n in range(self.stages):
            x = getattr(self, f"layer{n + 1}")(x)
        features = x.mean((2, 3))
        return features, self.fc(features)


def resnet(name, seed, differentiated, strength, **config):
    generator = torch.Generator().manual_seed(seed)
    model = TinyResNet(config).eval()
    randomise(model, generator)
    images = torch.randn(2, *config["image"], generator=generator).requires_grad_()
    features, logits = model(images)
    cotangent = torch.randn(logits.shape, generator=generator) * strength
    outputs = {"features": features, "logits": logits}
    if config["norm"]["kind"] == "batch":
        training = copy.deepcopy(model).train()
        outputs["batch_logits"] = training(images)[1]
        outputs["running_mean"], outputs["running_var"] = training.bn1.running_mean, training.bn1.running_var
    loss = (logits * cotangent).sum()
    write(name, {"kind": "resnet"} | config, model, {"images": images, "cotangent": cotangent}, (loss, outputs), differentiated)


# --- diffusers' U-Net, with a map beside the image ---------------------------------------------------------------------------


def unet(name, seed, differentiated, strength, spatial, **config):
    """`spatial` names the channels of the map, and the categories with embeddings of that width."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = config["image"]
    ups = [kind.replace("Down", "Up") for kind in reversed(config["down_block_types"])]
    model = UNet2DModel(
        in_channels=channels + spatial["channels"], out_channels=channels, up_block_types=ups,
        **{k: v for k, v in config.items() if k != "image"},
    )  # fmt: skip
    if "classes" in spatial:
        model.spatial_embedder = nn.Module()
        model.spatial_embedder.embedding_table = nn.Embedding(spatial["classes"], spatial["channels"])
    randomise(model, generator)
    noisy = torch.randn(3, *config["image"], generator=generator)
    condition = torch.randn(3, spatial["channels"], height, width, generator=generator).requires_grad_()
    timesteps = torch.tensor([3, 417, 999])
    noise = model(torch.cat([noisy, condition], dim=1), timesteps).sample
    cotangent = torch.randn(noise.shape, generator=generator) * strength
    inputs = {"noisy": noisy, "timesteps": timesteps, "condition": condition, "cotangent": cotangent}
    config = {"kind": "unet"} | config | {"spatial": spatial}
    write(name, config, model, inputs, ((noise * cotangent).sum(), {"noise": noise}), differentiated)


def cross_unet(name, seed, differentiated, strength, tokens, **config):
    """As Stable Diffusion's: `tokens` names their length, width and heads."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = config["image"]
    ups = [kind.replace("Down", "Up") for kind in reversed(config["down_block_types"])]
    model = UNet2DConditionModel(
        sample_size=(height, width), in_channels=channels, out_channels=channels, up_block_types=ups, cross_attention_dim=tokens["width"],
        attention_head_dim=tokens["heads"], transformer_layers_per_block=tokens.get("layers", 1),
        use_linear_projection=tokens.get("use_linear_projection", False), **{k: v for k, v in config.items() if k != "image"},
    )  # fmt: skip
    randomise(model, generator)
    noisy = torch.randn(3, *config["image"], generator=generator)
    condition = torch.randn(3, tokens["length"], tokens["width"], generator=generator).requires_grad_()
    timesteps = torch.tensor([3, 417, 999])
    noise = model(noisy, timesteps, condition).sample
    cotangent = torch.randn(noise.shape, generator=generator) * strength
    inputs = {"noisy": noisy, "timesteps": timesteps, "condition": condition, "cotangent": cotangent}
    config = {"kind": "unet"} | config | {"tokens": tokens}
    write(name, config, model, inputs, ((noise * cotangent).sum(), {"noise": noise}), differentiated)


# --- a residual U-Net of torchvision's blocks, which answers for each pixel -------------------------------------------------------


class EncoderDecoder(TinyResNet):
    def __init__(self, config):
        nn.Module.__init__(self)
        norm, widths = config["norm"], config["widths"]
        batch = norm["kind"] == "batch"
        self._norm_layer = nn.BatchNorm2d if batch else functools.partial(nn.GroupNorm, norm["groups"])
        self.inplanes, self.dilation, self.groups, self.base_width = widths[0], 1, 1, 64
        self.conv1 = nn.Conv2d(config["image"][0], widths[0], 3, stride=config["stem_stride"], padding=1, bias=False)
        self.bn1 = self._norm_layer(widths[0])
        for n, (width, count) in enumerate(zip(widths, config["blocks"])):
            setattr(self, f"layer{n + 1}", self._make_layer(BasicBlock, width, count, stride=1 if n == 0 else 2))
        self.levels = len(widths)
        for n in reversed(range(self.levels - 1)):
            self.inplanes = widths[n + 1] + widths[n]
            setattr(self, f"up{n + 1}", self._make_layer(BasicBlock, widths[n], 1)[0])
        self.head = nn.Conv2d(widths[0], config["outputs"], 1)
        self.extents = config["image"][1:]

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        kept = []
        for n in range(self.levels):
            x = getattr(self, f"layer{n + 1}")(x)
            kept.append(x)
        for n in reversed(range(self.levels - 1)):
            larger = nn.functional.interpolate(x, size=kept[n].shape[2:], mode="bilinear", align_corners=False)
            x = getattr(self, f"up{n + 1}")(torch.cat([larger, kept[n]], dim=1))
        return x, nn.functional.interpolate(self.head(x), size=self.extents, mode="bilinear", align_corners=False)


def encoder_decoder(name, seed, differentiated, **config):
    generator = torch.Generator().manual_seed(seed)
    model = EncoderDecoder(config).eval()
    randomise(model, generator)
    images = torch.randn(2, *config["image"], generator=generator).requires_grad_()
    features, logits = model(images)
    cotangent = torch.randn(logits.shape, generator=generator) * 0.1
    inputs = {"images": images, "cotangent": cotangent}
    outputs = {"features": features, "logits": logits}
    write(name, {"kind": "encoder_decoder"} | config, model, inputs, ((logits * cotangent).sum(), outputs), differentiated)


def structures():
    """Names and shapes of whole models, so that real checkpoints are known to fit."""
    with torch.device("meta"):
        models = {"resnet18": resnet18(), "resnet34": resnet34(), "resnet50": resnet50()}
    models["dit_xl_2"] = DiT(XL)
    with torch.device("meta"):
        models["stable_diffusion_1_5"] = UNet2DConditionModel(
            sample_size=64, block_out_channels=[320, 640, 1280, 1280], cross_attention_dim=768, attention_head_dim=8
        )
        models["ddpm_unet"] = UNet2DModel(
            sample_size=32, down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], block_out_channels=[128, 256, 256, 256],
            attention_head_dim=256, norm_num_groups=32,
        )  # fmt: skip
    print("DiT-XL/2:", sum(p.numel() for p in models["dit_xl_2"].parameters()), "parameters")
    table = {name: {n: list(v.shape) for n, v in model.state_dict().items()} for name, model in models.items()}
    (OUT / "structures.json").write_text(json.dumps(table, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    dit(
        "dit",
        0,
        ["condition", "blocks.0.attn.qkv.bias", "blocks.1.adaLN_modulation.1.bias", "t_embedder.mlp.2.weight", "x_embedder.proj.weight", "final_layer.linear.weight"],
        image=[1, 8, 8], patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=4.0, num_classes=10,
        class_dropout_prob=0.1, learn_sigma=False, positions="sincos",
    )  # fmt: skip
    dit(
        "dit_sigma",
        1,
        ["condition", "blocks.0.mlp.fc1.bias", "blocks.0.attn.proj.weight", "final_layer.adaLN_modulation.1.bias"],
        image=[2, 8, 8], patch_size=4, hidden_size=24, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=5,
        class_dropout_prob=0.0, learn_sigma=True, positions="sincos",
    )  # fmt: skip
    resnet(
        "resnet_group",
        2,
        ["images", "conv1.weight", "bn1.weight", "layer2.0.bn2.bias", "layer2.0.downsample.0.weight", "fc.weight"],
        1.0,
        image=[1, 12, 12], classes=10, block="basic", blocks=[1, 2], widths=[8, 16], stem="small",
        norm={"kind": "group", "groups": 4},
    )  # fmt: skip
    resnet(
        "resnet_batch",
        3,
        ["images", "conv1.weight", "bn1.bias", "layer1.0.conv3.weight", "layer2.0.bn3.weight", "fc.bias"],
        3.0,
        image=[3, 32, 32], classes=7, block="bottleneck", blocks=[1, 1, 1], widths=[4, 8, 8], stem="imagenet",
        norm={"kind": "batch"},
    )  # fmt: skip
    dit(
        "dit_spatial",
        7,
        ["condition", "x_embedder.proj.weight", "blocks.0.attn.qkv.bias"],
        image=[1, 8, 8], patch_size=4, hidden_size=16, depth=1, num_heads=2, mlp_ratio=2.0, spatial={"channels": 2},
        learn_sigma=False,
    )  # fmt: skip
    unet(
        "unet",
        4,
        ["condition", "conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.time_emb_proj.bias", "down_blocks.0.downsamplers.0.conv.weight",
         "down_blocks.1.attentions.0.to_k.weight", "mid_block.attentions.0.group_norm.weight", "up_blocks.0.upsamplers.0.conv.bias",
         "up_blocks.1.resnets.1.conv_shortcut.weight", "conv_norm_out.weight"],
        3.0,
        spatial={"channels": 3, "classes": 4},
        image=[2, 8, 4], block_out_channels=[8, 16], down_block_types=["DownBlock2D", "AttnDownBlock2D"], layers_per_block=1,
        attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    unet(
        "unet_plain",
        5,
        ["condition", "conv_in.bias", "down_blocks.1.resnets.1.conv1.weight", "mid_block.resnets.1.norm2.bias", "up_blocks.0.resnets.2.time_emb_proj.weight"],
        10.0,
        spatial={"channels": 1},
        image=[1, 4, 6], block_out_channels=[4, 8], down_block_types=["DownBlock2D", "DownBlock2D"], layers_per_block=2,
        add_attention=False, norm_num_groups=2, norm_eps=1e-6,
    )  # fmt: skip
    for name, linear in [("unet_cross", False), ("unet_cross_linear", True)]:
        cross_unet(
            name,
            8,
            ["condition", "down_blocks.0.attentions.0.proj_in.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
             "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj.bias", "up_blocks.1.attentions.0.transformer_blocks.0.norm2.weight"],
            3.0,
            tokens={"length": 3, "width": 6, "heads": 2} | ({"layers": 2, "use_linear_projection": True} if linear else {}),
            image=[2, 4, 4], block_out_channels=[8, 8], down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], layers_per_block=1,
            norm_num_groups=4,
        )  # fmt: skip
    uvit(
        "uvit",
        9,
        ["condition", "patch_embed.proj.weight", "time_embed.0.weight", "out_blocks.0.skip_linear.weight", "mid_block.attn.qkv.bias", "pos_embed"],
        image=[2, 8, 4], patch_size=2, embed_dim=12, depth=4, num_heads=3, mlp_ratio=2.0, qkv_bias=True, mlp_time_embed=True, num_classes=5,
        class_dropout_prob=0.1, conv=False, time_offset=1,
    )  # fmt: skip
    uvit(
        "uvit_conv",
        10,
        ["condition", "in_blocks.0.attn.qkv.weight", "out_blocks.0.norm2.bias"],
        image=[1, 8, 8], patch_size=4, embed_dim=9, depth=3, num_heads=1, mlp_ratio=4.0, qkv_bias=False, mlp_time_embed=False, num_classes=4,
        class_dropout_prob=0.0, conv=True, time_offset=0,
    )  # fmt: skip
    encoder_decoder(
        "encoder_decoder",
        6,
        ["images", "conv1.weight", "layer2.0.downsample.1.weight", "up1.conv1.weight", "up1.downsample.0.weight", "up2.bn2.bias", "head.weight", "head.bias"],
        image=[3, 16, 24], outputs=5, widths=[4, 8, 8], blocks=[1, 2, 1], stem_stride=2, norm={"kind": "group", "groups": 2},
    )  # fmt: skip
    structures()
