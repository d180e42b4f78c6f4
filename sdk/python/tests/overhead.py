"""What a step costs through dtta beside the same in PyTorch alone: 16 draws, forward and backward to the condition, in CPU seconds.

    python tests/overhead.py [ROUNDS]
"""

import statistics
import sys
import time

import torch
from diffusers import DDPMScheduler, UNet2DModel

import dtta

ROWS = 16


def main(rounds):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    blocks = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3, "block_out_channels": [64, 128, 128]}
    unet = UNet2DModel(sample_size=32, in_channels=3, out_channels=3, num_class_embeds=10, layers_per_block=1, **blocks)
    unet.eval().requires_grad_(False)
    scheduler = DDPMScheduler()
    denoiser = dtta.TorchDenoiser.diffusers(unet, scheduler)
    images, condition = torch.randn(ROWS, 3, 32, 32), torch.randn(ROWS, 256)
    feedback = dtta.Feedback(denoiser, draws=1, micro_batch=ROWS)
    ids = [str(row) for row in range(ROWS)]

    def through_dtta():
        feedback(images, condition, ids)

    def alone():
        given = condition.clone().requires_grad_()
        times, noise = torch.randint(0, 1000, (ROWS,)), torch.randn_like(images)
        noisy = scheduler.add_noise(images, noise, times)
        answer = denoiser.network(noisy, times, {"class-embedding": given})
        torch.autograd.grad((answer - noise).square().mean(dim=(1, 2, 3)).sum(), given)

    taken = {step: [] for step in (through_dtta, alone)}
    for step in taken:
        step()
    for _ in range(rounds):
        for step, seconds in taken.items():
            begun = time.process_time()
            step()
            seconds.append(time.process_time() - begun)
    ours, theirs = (statistics.median(seconds) for seconds in taken.values())
    print(f"through dtta {ours:.3f} s, alone {theirs:.3f} s: {100 * (ours / theirs - 1):+.1f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
