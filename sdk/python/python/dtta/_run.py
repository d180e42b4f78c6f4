"""Experiments: to run, to validate, and what a run left behind."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from . import _dtta
from ._errors import ExperimentError
from ._functions import Mapper, MapperFunction, Metric, MetricFunction, Score_of
from ._records import Records

if TYPE_CHECKING:
    from .torch import TorchBackbone, TorchDenoiser

Experiment = Union[str, "os.PathLike[str]", Mapping[str, Any]]
"""A file, or what one would hold: then relative paths start in the working folder."""

Progress = Callable[[int, int, str], None]
"""Called with the number of finished samples, that of all, and the name of the domain."""

Scores = Mapping[str, float]
"""Scores by name."""


@dataclass(frozen=True)
class Domain:
    """The scores of one domain of the stream."""

    name: str
    averaged: bool
    """Whether it counts in the mean: the clean one does not."""
    samples: int
    skipped: int
    source: Scores
    """Of the model before adaptation."""
    adapted: Scores
    """Of the adapted model, on the same samples."""

    @property
    def gain(self) -> dict[str, float]:
        """Adapted less source."""
        return _gain(self.source, self.adapted)


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    experiment: str
    metric: str
    """The score that tables show first."""
    domains: list[Domain]
    source: Scores
    """Averaged over the shifted domains."""
    adapted: Scores
    skipped: int
    """Samples that were left out; records say why."""
    seconds_per_sample: float
    protocol: Mapping[str, Any]
    """What the numbers depend on: method, seed, samples, digests, device."""
    raw: Mapping[str, Any]
    """`summary.json` as it is, with intervals."""

    @property
    def gain(self) -> dict[str, float]:
        """Adapted less source, averaged over the shifted domains."""
        return _gain(self.source, self.adapted)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Summary":
        """Of what `summary.json` holds."""
        domains = [
            Domain(
                domain["name"],
                domain["averaged"],
                domain["samples"],
                domain.get("skipped", 0),
                domain["source"],
                domain["adapted"],
            )
            for domain in raw["domains"]
        ]
        return cls(
            raw["experiment"],
            raw["metric"],
            domains,
            raw["mean"]["source"],
            raw["mean"]["adapted"],
            raw["skipped"],
            raw["seconds_per_sample"],
            raw["protocol"],
            raw,
        )


def _gain(source: Scores, adapted: Scores) -> dict[str, float]:
    return {name: adapted[name] - source[name] for name in source if name in adapted}


@dataclass(frozen=True)
class Run:
    """A run by its folder."""

    folder: Path
    status: Literal["running", "finished", "interrupted", "failed"]
    records: Records
    summary: Optional[Summary]
    """None unless the run is finished."""
    description: Mapping[str, Any]
    """`run.json`: the experiment as it was run, digests, plugins."""


def run(
    experiment: Experiment,
    overrides: Optional[Mapping[str, Any]] = None,
    *,
    out: Optional[Union[str, "os.PathLike[str]"]] = None,
    resume: bool = False,
    force: bool = False,
    shard: Optional[str] = None,
    checkpoint_every: float = 30.0,
    device: str = "cpu",
    denoiser_device: Optional[str] = None,
    backbone: Optional["TorchBackbone"] = None,
    denoiser: Optional["TorchDenoiser"] = None,
    mapper: Optional[Mapper] = None,
    metric: Union[Metric, Score_of, None] = None,
    progress: Union[bool, Progress] = True,
) -> Run:
    """Runs an experiment into a folder (`runs/NAME` if absent), and loads what it left there.

    `overrides` are values by their place: `{"method.steps": 3}`. `backbone` and `denoiser` take the place of those that the experiment
    names; how they see an image, the experiment still says (`preprocess`). `mapper` and `metric` are functions in the place of the
    experiment's plugins, to try out. Ctrl-C stops the run after its batch, with a checkpoint that
    `resume=True` continues.

    Raises `ExperimentError` for what a user can mend, `RunError` for what fails, and whatever a network or a function of Python raised.
    """
    if resume and force:
        raise ValueError("`resume` continues a run and `force` replaces it; choose one")
    if out is not None and "://" in os.fspath(out):
        raise ValueError(f"out is `{out}`, expected a folder; the command `dtta run` puts runs into object stores")
    shown = _shown(progress)
    try:
        folder, _ = _dtta.run(
            _experiment(experiment),
            _overrides(overrides),
            out=None if out is None else os.fspath(out),
            existing="resume" if resume else "replace" if force else "keep",
            shard=shard,
            checkpoint_every=checkpoint_every,
            device=device,
            denoiser_device=denoiser_device,
            backbone=backbone,
            denoiser=denoiser,
            mapper=None if mapper is None else MapperFunction(mapper),
            metric=None if metric is None else MetricFunction(metric),
            progress=shown,
        )
    finally:
        if isinstance(shown, _Bar):
            shown.close()
    return load(folder)


def validate(experiment: Experiment, overrides: Optional[Mapping[str, Any]] = None) -> None:
    """Holds an experiment to its schema and to itself; nothing is loaded.

    Raises `ExperimentError` with every fault.
    """
    _dtta.validate(_experiment(experiment), _overrides(overrides))


def load(folder: Union[str, "os.PathLike[str]"]) -> Run:
    """What a run left in its folder: its records so far, and where it is finished, its summary.

    Raises `ExperimentError` for a folder that holds no run.
    """
    folder = Path(folder)
    described = folder / "run.json"
    if not described.is_file():
        raise ExperimentError(f"`{folder}` holds no run: there is no `run.json`", str(folder))
    description = json.loads(described.read_text(encoding="utf-8"))
    records, summary = folder / "records.jsonl", folder / "summary.json"
    return Run(
        folder,
        description["status"],
        Records.read(records) if records.is_file() else Records({}),
        Summary.of(json.loads(summary.read_text(encoding="utf-8"))) if summary.is_file() else None,
        description,
    )


def _experiment(experiment: Experiment) -> Any:
    return dict(experiment) if isinstance(experiment, Mapping) else os.fspath(experiment)


def _overrides(overrides: Optional[Mapping[str, Any]]) -> list[str]:
    return [f"{place}={json.dumps(value)}" for place, value in (overrides or {}).items()]


def _shown(progress: Union[bool, Progress]) -> Optional[Progress]:
    if not isinstance(progress, bool):
        return progress
    return _Bar() if progress else None


class _Bar:
    """Progress in a notebook or a terminal: tqdm's where it is installed, or else a line on stderr if that is a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._line = False

    def __call__(self, done: int, total: int, domain: str) -> None:
        if self._bar is None and not self._line:
            self._open(total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_description_str(domain, refresh=False)
        elif self._line and sys.stderr.isatty():
            print(f"\r\x1b[K{domain} {done}/{total}", end="", file=sys.stderr, flush=True)

    def _open(self, total: int) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            self._line = True
            return
        # Silent where stderr is a file.
        self._bar = tqdm(total=total, unit=" samples", disable=None)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._line and sys.stderr.isatty():
            print(file=sys.stderr)
