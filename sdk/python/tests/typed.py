"""What people write, for `mypy --strict`: it is checked, and not run."""

from collections.abc import Sequence

import torch
from torch import nn

import dtta
import dtta.torch


def adapted(path: str, network: nn.Module) -> dict[str, float]:
    backbone = dtta.TorchBackbone(network, image=(3, 224, 224))
    run = dtta.run(path, {"method.steps": 3}, backbone=backbone, progress=False)
    if run.summary is None:
        return {}
    losses: list[list[float]] = run.records["loss"]
    print(len(losses), [domain.gain for domain in run.summary.domains])
    return run.summary.gain


def loss(images: torch.Tensor, condition: torch.Tensor, ids: list[str]) -> torch.Tensor:
    denoiser = dtta.Denoiser("denoiser.json")
    feedback = dtta.Feedback(denoiser, draws=8, timesteps={"sampler": "stratified"}, seed=1)
    return dtta.torch.feedback(feedback, images, condition, ids, step=2).mean()


def denoiser(network: nn.Module) -> dtta.TorchDenoiser:
    def answer(noisy: torch.Tensor, times: torch.Tensor, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        found = network(noisy, times, condition["class-embedding"])
        assert isinstance(found, torch.Tensor)
        return found

    return dtta.TorchDenoiser(answer, {"kind": "discrete"}, image=(1, 28, 28), slots={"class-embedding": [96]}, module=network)


def tried_out(path: str, table: torch.Tensor) -> dtta.Run:
    def mapper(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return outputs["logits"].softmax(-1) @ table

    def error(predictions: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"error": float((predictions["depth"] - targets["depth"]).abs().mean())}

    metric = dtta.Metric(error, {"error": dtta.Score(higher_is_better=False, unit="m")})
    return dtta.run(path, mapper=mapper, metric=metric)


class Workers:
    def __init__(self, feedback: dtta.Feedback) -> None:
        self.feedback = feedback

    def __call__(self, images: torch.Tensor, condition: torch.Tensor, ids: Sequence[str], step: int = 0) -> tuple[dtta.Tensor, dict[str, dtta.Tensor]]:
        parts = [self.feedback.part(images, condition, ids, step, draws=draws) for draws in self.feedback.split(3)]
        return dtta.sum_parts(parts)


def over_workers(images: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    workers = Workers(dtta.Feedback(dtta.Denoiser("denoiser.json"), draws=8, micro_batch=2))
    return dtta.torch.feedback(workers, images, condition, ["a"]).mean()


def faults(path: str) -> list[dtta.Issue]:
    try:
        dtta.validate(path)
    except dtta.ExperimentError as error:
        return error.issues
    return []


def exit_code(path: str) -> int:
    try:
        dtta.run(path, shard="auto", out="part")
    except dtta.Interrupted as stopped:
        print(stopped.signal.name)
        raise
    except (dtta.ExperimentError, dtta.RunError) as error:
        print(error.file)
        return error.exit_code
    return 0
