"""Draws per second of DiT-XL/2-256 with random weights in PyTorch: the steps that `cargo bench -p dtta-learn --bench full_size` measures.

The model as facebookresearch/DiT has it with timm's fused attention; needs nothing but PyTorch. Noise from the host, forward, and
backward to the class embedding; the weights are frozen. Run by hand, beside the Rust benchmark:

    python tests/reference/full_size.py [cpu|cuda] [f32,tf32,bf16] [8,32,64] [profile]
"""

import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, DEPTH, HEADS, PATCH, SIDE, CHANNELS = 1152, 28, 16, 2, 32, 4


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)
        self.adaLN = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def attend(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))

    def forward(self, x, c):
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN(c).chunk(6, dim=1)
        x = x + gate.unsqueeze(1) * self.attend(modulate(self.norm1(x), shift, scale))
        fed = self.fc2(F.gelu(self.fc1(modulate(self.norm2(x), shift2, scale2)), approximate="tanh"))
        return x + gate2.unsqueeze(1) * fed


class DiT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2, WIDTH) * 0.5)
        self.time = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.adaLN = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.linear = nn.Linear(WIDTH, PATCH * PATCH * 2 * CHANNELS)

    def forward(self, x, t, y):
        half = 128
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
        angles = t[:, None].float() * frequencies
        code = torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)
        c = self.time(code) + y
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.adaLN(c).chunk(2, dim=1)
        x = self.linear(modulate(self.norm(x), shift, scale))
        b, n = x.shape[0], SIDE // PATCH
        x = x.reshape(b, n, n, PATCH, PATCH, 2 * CHANNELS)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(b, 2 * CHANNELS, SIDE, SIDE)


def main():
    arguments = sys.argv[1:]
    device = torch.device(arguments[0] if arguments else "cpu")
    precisions = (arguments[1] if len(arguments) > 1 else "f32").split(",")
    micro_batches = [int(n) for n in (arguments[2] if len(arguments) > 2 else "8,32,64").split(",")]
    profile = "profile" in arguments
    torch.manual_seed(0)
    with device:
        model = DiT().eval().requires_grad_(False)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)
    picture = torch.full((1, CHANNELS, SIDE, SIDE), 0.5, device=device)
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for precision in precisions:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16 if precision == "f16" else torch.float32
        model.to(dtype)
        for count in micro_batches:

            def call():
                leaf = torch.full((1, WIDTH), 0.1, device=device, requires_grad=True)
                t = torch.randint(100, 600, (count,), device=device)
                a = alphas[t].view(-1, 1, 1, 1)
                noise = torch.randn(count, CHANNELS, SIDE, SIDE).to(device)
                noisy = a.sqrt() * picture + (1 - a).sqrt() * noise
                predicted = model(noisy.to(dtype), t, leaf.expand(count, -1).to(dtype))[:, :CHANNELS].float()
                losses = ((predicted - noise) ** 2).mean((1, 2, 3))
                losses.tolist()
                (losses.sum() / count).backward()
                return leaf.grad

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times, begun = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begun < 3:
                clock = time.perf_counter()
                call()
                sync()
                times.append(time.perf_counter() - clock)
                if len(times) == 1:
                    begun = time.perf_counter()
            seconds = sorted(times[1:])[(len(times) - 1) // 2]
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
            print(
                f"torch {torch.__version__} {device} {precision} micro-batch {count}: {count / seconds:.1f} draws/s, "
                f"{1e3 * seconds:.2f} ms a call, {memory:.2f} GiB",
                flush=True,
            )
            if profile and count == micro_batches[-1]:
                from torch.profiler import ProfilerActivity, profile as record

                with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                    call()
                    sync()
                kernels = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
                print(f"torch {precision}: {len(kernels)} kernels and copies in a call")
                print(seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    main()
