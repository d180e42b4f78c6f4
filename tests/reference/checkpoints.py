"""Checkpoints as PyTorch, safetensors and huggingface_hub themselves save them, for core/models/tests/checkpoints.rs.

    python tests/reference/checkpoints.py

Writes core/models/tests/fixtures/checkpoints. The values are small whole numbers or halves, so that f16 and bf16 hold them exactly: what
is read is compared for equality with `expected.json`.
"""

import argparse
import collections
import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parents[2] / "core/models/tests/fixtures/checkpoints"


def values(*shape, start=0):
    count = 1
    for extent in shape:
        count *= extent
    return (torch.arange(count, dtype=torch.float32) % 61 - 30 + start).reshape(shape) / 2


def state(start=0):
    """One tensor of each kind that a state dict may hold: views, other types, a tensor without axes, one without elements."""
    storage = values(4, 5, start=start)
    tensors = collections.OrderedDict()
    tensors["plain"] = values(3, 4, start=start)
    tensors["transposed"] = values(4, 3, start=start).t()
    tensors["column"] = storage[:, 2]
    tensors["block"] = storage[1:3, 1:4]
    tensors["turned"] = values(2, 3, 4, start=start).permute(2, 0, 1)
    tensors["channels_last"] = values(2, 3, 4, 5, start=start).contiguous(memory_format=torch.channels_last)
    tensors["expanded"] = values(1, 3, start=start).expand(4, 3)
    tensors["far"] = values(40, 50, start=start)[::39, ::49]
    tensors["scalar"] = torch.tensor(1.5 + start)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["half"] = values(5, start=start).half()
    tensors["brain"] = values(5, start=start).bfloat16()
    tensors["brain_transposed"] = values(4, 3, start=start).bfloat16().t()
    tensors["double"] = values(2, 2, start=start).double()
    tensors["parameter"] = torch.nn.Parameter(values(2, start=start))
    tensors["tied"] = tensors["plain"]
    tensors["bn.num_batches_tracked"] = torch.tensor(7)
    return tensors


def told(tensors):
    return {
        name: {"shape": list(tensor.shape), "values": tensor.detach().float().flatten().tolist()}
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    plain, other = state(), state(start=1)
    torch.save(plain, FOLDER / "plain.pt")
    torch.save(plain, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        torch.save(plain, FOLDER / f"protocol{protocol}.pt", pickle_protocol=protocol)
    torch.serialization.set_crc32_options(False)
    torch.save(plain, FOLDER / "unchecked.pt")
    torch.serialization.set_crc32_options(True)
    # As facebookresearch's DiT and SiT save while they train: the weights, their average, the optimizer, the arguments.
    model = module()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    training = {"model": other, "ema": plain, "opt": optimizer.state_dict(), "args": argparse.Namespace(lr=1e-4, image_size=256)}
    torch.save(training, FOLDER / "training.pt")
    torch.save(training, FOLDER / "training_legacy.pt", _use_new_zipfile_serialization=False)
    # As a script saves that wraps its model, and keeps its best accuracy beside it.
    wrapped = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in plain.items())
    torch.save({"state_dict": wrapped, "epoch": 3, "best": torch.tensor(0.5), "optimizer": optimizer.state_dict()}, FOLDER / "wrapped.pth")
    # A model of this repository's, as DistributedDataParallel saves it.
    weights = load_file(FOLDER.parent / "resnet_batch.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 3}, FOLDER / "resnet_batch.pt")
    # What PyTorch makes of a module itself, with the metadata of its state dict.
    torch.save(model.state_dict(), FOLDER / "module.bin")
    # What is refused.
    torch.save(model, FOLDER / "object.pt")
    torch.save({"generator": plain, "discriminator": other}, FOLDER / "several.pt")
    torch.save(plain["plain"], FOLDER / "tensor.pt")
    torch.save({"weight": torch.quantize_per_tensor(values(3), 0.5, 0, torch.qint8)}, FOLDER / "quantized.pt")
    torch.save({"weight": values(2), "more": torch.ones(2, dtype=torch.uint16)}, FOLDER / "types.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), FOLDER / "program.pt")
    # safetensors, and both formats in pieces, by the Hub's own library.
    whole = {name: tensor.detach().contiguous().clone() for name, tensor in plain.items()}
    save_file(whole, FOLDER / "plain.safetensors", metadata={"format": "pt"})
    for name, safe in (("sharded", True), ("sharded_bin", False)):
        folder = FOLDER / name
        folder.mkdir()
        save_torch_state_dict(whole, folder, max_shard_size=600, safe_serialization=safe)
    expected = {"plain": told(plain), "other": told(other), "module": told(model.state_dict())}
    (FOLDER / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
