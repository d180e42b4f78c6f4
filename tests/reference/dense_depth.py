"""Writes the fixtures that hold DenseDepth to PyTorch, with torchvision's DenseNet as its encoder: run by hand, results are committed.

    python tests/reference/dense_depth.py [core/models/tests/fixtures/dense_depth]

Needs torch, torchvision, safetensors. The network is written here after the paper (Alhashim and Wonka 2018) and the names that the authors'
PyTorch code gives its parameters. NAME.json is a model file, NAME.safetensors random values, NAME.expected.safetensors inputs, outputs and
gradients:

- keras: a leaky ReLU behind both convolutions of a step, as in the paper's code;
- pytorch: behind the second alone, as in the authors' PyTorch code; another width of the decoder, three blocks, odd extents.

`structure.json` has a digest of the names and shapes of the tensors of DenseNet-169's features and of the decoder over them.
"""

import hashlib
import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/dense_depth")


class Step(nn.Module):
    def __init__(self, inputs, outputs, both):
        super().__init__()
        self.convA, self.convB = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.between = nn.LeakyReLU(0.2) if both else nn.Identity()

    def forward(self, x, beside):
        x = F.interpolate(x, beside.shape[2:], mode="bilinear", align_corners=True)
        return F.leaky_relu(self.convB(self.between(self.convA(torch.cat([x, beside], 1)))), 0.2)


class DenseDepth(nn.Module):
    def __init__(self, densenet, both, width=None):
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.original_model = densenet
        parts = densenet.features
        self.count = sum(name.startswith("denseblock") for name, _ in parts.named_children())
        last = densenet.classifier.in_features
        beside = [parts.conv0.out_channels] * 2 + [getattr(parts, f"transition{n + 1}").conv.out_channels for n in range(self.count - 2)]
        width = width or last
        self.decoder.conv2 = nn.Conv2d(last, width, 1)
        for n, channels in enumerate(reversed(beside)):
            setattr(self.decoder, f"up{n + 1}", Step((width >> n) + channels, width >> (n + 1), both))
        self.decoder.conv3 = nn.Conv2d(width >> self.count, 1, 3, padding=1)

    def forward(self, x):
        maps = []
        for name, part in self.encoder.original_model.features.named_children():
            x = part(x)
            if name in ("relu0", "pool0") or name.startswith("transition"):
                maps.append(x)
        x = self.decoder.conv2(F.relu(x))
        for n, beside in enumerate(reversed(maps[:-1])):
            x = getattr(self.decoder, f"up{n + 1}")(x, beside)
        return x, self.decoder.conv3(x)


def randomise(model, seed, size):
    generator = torch.Generator().manual_seed(seed)
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith("num_batches_tracked"):
            continue
        draw = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            p.data = 0.5 + draw.abs()
        elif p.dim() > 1:
            p.data = size * draw * p[0].numel() ** -0.5
        else:
            p.data = 0.3 * draw + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()


def write(name, seed, size, extents, growth, blocks, both, width):
    densenet = torchvision.models.DenseNet(growth_rate=growth, block_config=blocks, num_init_features=8, bn_size=2, num_classes=5)
    model = randomise(DenseDepth(densenet, both, width), seed, size)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, *extents, generator=generator).requires_grad_()
    features, answer = model(images)
    answer = F.interpolate(answer, extents, mode="bilinear", align_corners=False)
    cotangent = torch.randn(answer.shape, generator=generator)
    named = dict(model.named_parameters())
    prefix = "encoder.original_model.features."
    wanted = [f"{prefix}conv0.weight", f"{prefix}denseblock2.denselayer2.conv1.weight", "decoder.up2.convA.weight"]
    gradients = torch.autograd.grad((answer * cotangent).sum(), [images, *(named[n] for n in wanted)])
    tensors = {"input.images": images, "input.cotangent": cotangent, "output.features": features, "output.logits": answer}
    tensors |= {f"gradient.{n}": g for n, g in zip(["images", *wanted], gradients)}
    for n, value in tensors.items():
        print(f"{name}: {n} {list(value.shape)} max {value.abs().max():.3g}")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, OUT / f"{name}.expected.safetensors")
    weights = {n: v.contiguous() for n, v in model.state_dict().items() if "classifier" not in n}
    save_file(weights, OUT / f"{name}.safetensors")
    config = {"kind": "dense_depth", "image": [3, *extents], "both_activated": both,
              "encoder": {"growth": growth, "blocks": list(blocks), "stem_width": 8, "bottleneck": 2}}
    (OUT / f"{name}.json").write_text(json.dumps(config | ({"decoder_width": width} if width else {}), indent=2) + "\n")
    for path in OUT.glob("*.safetensors"):
        path.chmod(0o644)


OUT.mkdir(parents=True, exist_ok=True)
write("keras", 1, 1.8, (32, 48), 6, (2, 2, 2, 2), True, None)
write("pytorch", 2, 1.2, (35, 46), 3, (2, 3, 2), False, 24)
with torch.device("meta"):
    model = DenseDepth(torchvision.models.densenet169(weights=None), False)
shapes = {n: list(v.shape) for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked") and "classifier" not in n}
lines = "".join(f"{n} {shape}\n" for n, shape in sorted(shapes.items()))
(OUT / "structure.json").write_text(json.dumps({"densenet169": hashlib.sha256(lines.encode()).hexdigest()}) + "\n")
