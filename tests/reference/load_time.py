"""Makes checkpoints of 1 GB of weights in a folder, for core/models/tests/memory.rs, and tells how long PyTorch's own readers take.

    python tests/reference/load_time.py FOLDER
"""

import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LAYERS, SHAPE = 40, (2048, 3072)


def once(path):
    """Seconds of one reading in this process, which has to get its memory from the system, as one that starts does: where freed memory is
    there already, reading takes a third of the time."""
    read = load_file if path.endswith(".safetensors") else lambda path: torch.load(path, weights_only=True)
    start, computed = time.perf_counter(), time.process_time()
    # As the weights of a model in f32, in memory of their own.
    tensors = {name: tensor.float().clone() if tensor.dtype == torch.float32 else tensor.float() for name, tensor in read(path).items()}
    print(time.perf_counter() - start, time.process_time() - computed, len(tensors))


def best(path):
    path.read_bytes()  # Its pages are in the system's cache.
    runs = [subprocess.run([sys.executable, __file__, "--once", path], check=True, capture_output=True, text=True) for _ in range(3)]
    return "{:.2f} s, {:.2f} s of computing".format(*(min(map(float, column)) for column in list(zip(*(run.stdout.split() for run in runs)))[:2]))


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
        print(name, "safetensors.torch.load_file", best(folder / f"{name}.safetensors"), flush=True)
        print(name, "torch.load", best(folder / f"{name}.pt"), flush=True)


if __name__ == "__main__":
    once(sys.argv[2]) if sys.argv[1] == "--once" else main()
