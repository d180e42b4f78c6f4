"""Draws per second of one feedback call in PyTorch: the step that `cargo bench -p dtta --bench draws` measures.

The denoiser of the Fashion-MNIST example, frozen; 20 images with 16 draws each; forward, and backward to the class embedding.
Run by hand, beside the Rust benchmark and on an idle machine:

    python tests/reference/draws_per_second.py [cpu|cuda] [micro batch] [threads]
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from models import DiT

IMAGES, DRAWS = 20, 16


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    micro_batch = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    if len(sys.argv) > 3:
        torch.set_num_threads(int(sys.argv[3]))
    folder = Path(__file__).parents[2] / "examples/fashion/models"
    config = json.loads((folder / "denoiser.json").read_text())
    config = {"mlp_ratio": 4.0, "class_dropout_prob": 0.0, "learn_sigma": False} | config
    channels, side, _ = config["image"]
    model = DiT(config)
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "denoiser.safetensors").items()})
    model.to(device).eval().requires_grad_(False)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    images = torch.randn(IMAGES, channels, side, side, device=device)
    condition = model.y_embedder.embedding_table.weight.mean(0).repeat(IMAGES, 1)

    def feedback() -> torch.Tensor:
        leaf = condition.clone().requires_grad_(True)
        owners = torch.arange(IMAGES, device=device).repeat_interleave(DRAWS)
        timesteps = torch.randint(100, 600, (IMAGES * DRAWS,), device=device)
        for rows in torch.arange(IMAGES * DRAWS, device=device).split(micro_batch):
            a = alphas[timesteps[rows]].view(-1, 1, 1, 1)
            noise = torch.randn(len(rows), channels, side, side, device=device)
            noisy = a.sqrt() * images[owners[rows]] + (1 - a).sqrt() * noise
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
        "torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads(), "micro_batch": micro_batch,
        "draws_per_second": IMAGES * DRAWS / median, "milliseconds": 1e3 * median,
    }))


if __name__ == "__main__":
    main()
