"""Makes checkpoints of 1 GB of weights in a folder, for core/models/tests/memory.rs, and tells how long PyTorch's own readers take.

    python tests/reference/load_time.py FOLDER
"""

import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LAYERS, SHAPE = 40, (2048, 3072)


def best(read):
    times = []
    for _ in range(3):
        start, computed = time.perf_counter(), time.process_time()
        tensors = read()
        # As the weights of a model in f32, in memory of their own.
        tensors = {name: tensor.float().clone() if tensor.dtype == torch.float32 else tensor.float() for name, tensor in tensors.items()}
        times.append((time.perf_counter() - start, time.process_time() - computed))
        del tensors
    return "{:.2f} s, {:.2f} s of computing".format(*(min(column) for column in zip(*times)))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        tensors = {f"layers.{layer}.weight": torch.randn(SHAPE).to(dtype) for layer in range(LAYERS)}
        save_file(tensors, folder / f"{name}.safetensors")
        torch.save(tensors, folder / f"{name}.pt")
        if name == "f32":
            torch.save(tensors, folder / f"{name}_legacy.pt", _use_new_zipfile_serialization=False)
            torch.save({key: tensor.t().contiguous().t() for key, tensor in tensors.items()}, folder / f"{name}_views.pt")
        del tensors
        print(name, "safetensors.torch.load_file", best(lambda: load_file(folder / f"{name}.safetensors")), flush=True)
        print(name, "torch.load", best(lambda: torch.load(folder / f"{name}.pt", weights_only=True)), flush=True)


if __name__ == "__main__":
    main()
