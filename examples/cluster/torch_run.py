#!/usr/bin/env python3
"""`dtta run` with networks of PyTorch, in the place of the command in the recipes here: the networks are those of `networks`, which is yours to
write, and so is the rest of what `dtta.run` takes. Every other command is that of dtta.

    pip install torch torchvision diffusers wheels/*.whl        # the last is dtta's own: sdk/python/README.md
    DTTA=examples/cluster/torch_run.py sbatch examples/cluster/slurm.sh EXPERIMENT OUT [--device cpu] [--set POINTER=VALUE ...]
    python examples/cluster/submitit_run.py EXPERIMENT --out OUT --shards 8 --dtta examples/cluster/torch_run.py
    dtta merge OUT/*-of-8 --out OUT/whole                       # the command alone: it needs no network

SIGTERM ends it after its batch, with a checkpoint and exit code 75, by the exception `dtta.Interrupted`; the other exit codes are dtta's, too.
"""

import argparse
import json
import os
import sys

import dtta
from dtta._command import main as command


def networks():
    """A classifier of torchvision and a denoiser of diffusers, with random weights. Every process must make the same ones."""
    import torch
    import torchvision
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    classifier = torchvision.models.resnet18(num_classes=10)
    classifier.conv1 = torch.nn.Conv2d(1, 64, 3, padding=1, bias=False)  # the images are grey
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "block_out_channels": [32, 64]}
    unet = UNet2DModel(sample_size=28, in_channels=1, out_channels=1, num_class_embeds=10, **blocks)
    backbone = dtta.TorchBackbone(classifier, image=(1, 28, 28))
    return {"backbone": backbone, "denoiser": dtta.TorchDenoiser.diffusers(unet, DDPMScheduler())}


def override(text):
    """`POINTER=VALUE`, where what is not JSON is a text."""
    place, _, value = text.partition("=")
    try:
        return place, json.loads(value)
    except ValueError:
        return place, value


def main():
    if sys.argv[1:2] != ["run"]:
        command()
    parser = argparse.ArgumentParser(description="Runs an experiment, or a shard of one, with networks of PyTorch.")
    parser.add_argument("run", choices=["run"])
    parser.add_argument("experiment")
    parser.add_argument("--out", required=True)
    parser.add_argument("--shard", help="I/N, or auto")
    parser.add_argument("--set", action="append", default=[], type=override, metavar="POINTER=VALUE")
    parser.add_argument("--device", default="cpu", help="of plugins; networks compute where they are")
    parser.add_argument("--checkpoint-every", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    was_finished = os.path.exists(os.path.join(arguments.out, "unit.json"))
    try:
        run = dtta.run(
            arguments.experiment,
            dict(arguments.set),
            out=arguments.out,
            shard=arguments.shard,
            resume=arguments.resume,
            checkpoint_every=arguments.checkpoint_every,
            device=arguments.device,
            **networks(),
        )
    except (dtta.ExperimentError, dtta.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(run, file=sys.stderr)
    # 3: samples were skipped, which is said once.
    return 3 if run.summary.skipped and not was_finished else 0


if __name__ == "__main__":
    sys.exit(main())
