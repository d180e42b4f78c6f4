"""Draws per second of one feedback call in PyTorch: the steps that `cargo bench -p dtta --bench draws` measures.

Frozen denoisers, forward, and backward to the condition. `dit`: that of the Fashion-MNIST example, 20 images with 16 draws each,
the condition is a class embedding. `unet`: diffusers' `UNet2DModel` in the structure of the dense example's mask denoiser, 10 images
with 16 draws each, the condition is a map beside the image. Run by hand, beside the Rust benchmark and on an idle machine:

    python tests/reference/draws_per_second.py [dit|unet] [cpu|cuda] [micro batch] [threads]
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[2] / "examples"
DRAWS = 16


def dit(images: int) -> tuple:
    """The model as a function of noisy images, timesteps and condition; the shape of an image; a condition for each image."""
    from models import DiT

    folder = EXAMPLES / "fashion/models"
    config = json.loads((folder / "denoiser.json").read_text())
    config = {"mlp_ratio": 4.0, "class_dropout_prob": 0.0, "learn_sigma": False} | config
    model = DiT(config)
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "denoiser.safetensors").items()})
    return model, config["image"], model.y_embedder.embedding_table.weight.mean(0).repeat(images, 1)


def unet(images: int) -> tuple:
    from diffusers import UNet2DModel

    config = json.loads((EXAMPLES / "doom/models/mask-denoiser.json").read_text())
    (channels, height, width), levels = config["image"], len(config["block_out_channels"])
    embedded = config["spatial"]["channels"]
    model = UNet2DModel(
        sample_size=(height, width), in_channels=channels + embedded, out_channels=channels,
        down_block_types=config["down_block_types"], up_block_types=["UpBlock2D"] * levels,
        **{name: config[name] for name in ("block_out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups")},
    )

    class Spatial(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, noisy, timesteps, condition):
            return self.model(torch.cat([noisy, condition], 1), timesteps).sample

    return Spatial(), config["image"], torch.randn(images, embedded, height, width)


def main() -> None:
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "dit"
    device = torch.device(arguments[1] if len(arguments) > 1 else "cpu")
    images = {"dit": 20, "unet": 10}[name]
    micro_batch = int(arguments[2]) if len(arguments) > 2 else {"dit": 64, "unet": 40}[name]
    if len(arguments) > 3:
        torch.set_num_threads(int(arguments[3]))
    model, (channels, height, width), condition = {"dit": dit, "unet": unet}[name](images)
    model.to(device).eval().requires_grad_(False)
    condition = condition.detach().to(device)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    pictures = torch.randn(images, channels, height, width, device=device)

    def feedback() -> torch.Tensor:
        leaf = condition.clone().requires_grad_(True)
        owners = torch.arange(images, device=device).repeat_interleave(DRAWS)
        timesteps = torch.randint(100, 600, (images * DRAWS,), device=device)
        for rows in torch.arange(images * DRAWS, device=device).split(micro_batch):
            a = alphas[timesteps[rows]].view(-1, 1, 1, 1)
            noise = torch.randn(len(rows), channels, height, width, device=device)
            noisy = a.sqrt() * pictures[owners[rows]] + (1 - a).sqrt() * noise
            predicted = model(noisy, timesteps[rows], leaf[owners[rows]])
            ((predicted - noise) ** 2).mean((1, 2, 3)).sum().div(DRAWS).backward()
        return leaf.grad

    times = []
    for _ in range(12):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        feedback().sum().item()
        times.append(time.perf_counter() - start)
    median = sorted(times[2:])[len(times[2:]) // 2]
    print(json.dumps({
        "model": name, "torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads(), "micro_batch": micro_batch,
        "draws_per_second": images * DRAWS / median, "milliseconds": 1e3 * median,
    }))


if __name__ == "__main__":
    main()
