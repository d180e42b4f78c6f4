"""Experiments: to run, to validate, and what a run left behind."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from . import _dtta
from ._errors import ExperimentError, Interrupted
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
    protocol: Mapping[str, Any] = field(repr=False)
    """What the numbers depend on: method, seed, samples, digests, device."""
    raw: Mapping[str, Any] = field(repr=False)
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


@dataclass(frozen=True, repr=False)
class Run:
    """A run by its folder. Notebooks show it as a table of domains."""

    folder: Path
    status: Literal["running", "finished", "interrupted", "failed"]
    records: Records
    summary: Optional[Summary]
    """None unless the run is finished."""
    description: Mapping[str, Any]
    """`run.json`: the experiment as it was run, digests, plugins."""

    def __repr__(self) -> str:
        came = ""
        if self.summary is not None:
            source, adapted = (_lead(self.summary.metric, scores) for scores in (self.summary.source, self.summary.adapted))
            came = f", {self.summary.metric} {source} -> {adapted}"
        return f"dtta.Run({str(self.folder)!r}, {self.status}, {self.records.rows} records{came})"

    def _repr_html_(self) -> str:
        if self.summary is None:
            return f"<p>{escape(repr(self))}</p>"
        lead = self.summary.metric
        rows = [(domain.name, domain.source, domain.adapted) for domain in self.summary.domains]
        rows.append(("mean of the shifted", self.summary.source, self.summary.adapted))
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{_lead(lead, source)}</td><td>{_lead(lead, adapted)}</td></tr>" for name, source, adapted in rows
        )
        head = f"<tr><th></th><th>{escape(lead)}, source</th><th>adapted</th></tr>"
        return f"<table><caption>{escape(str(self.folder))}</caption><thead>{head}</thead><tbody>{cells}</tbody></table>"


def _lead(metric: str, scores: Scores) -> str:
    return f"{scores[metric]:.4g}" if metric in scores else "-"


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
    experiment's plugins, to try out.

    `shard` is a part of the run, `"3/8"`, or `"auto"` for the one that Slurm, Kubernetes, SkyPilot or torchrun say, as `--shard` of the command.
    A shard goes on where it was, and a finished one is loaded, as is a finished run with `resume=True`; nothing is computed then.

    Ctrl-C, SIGTERM and SIGHUP stop the run after its batch, with a checkpoint that `resume=True` or a `shard` continues. They are heard between
    batches and while Python is at work, so not before models and data are opened; a second one does not wait once the first was heard. Then
    `KeyboardInterrupt` or `Interrupted` is raised, also where the run was finished just then. That is so in Python's main thread, for signals that
    have no handler of yours. An exception of what failed meanwhile comes before them.

    Raises `ExperimentError` for what a user can mend, `LockedError` where another process works in the folder, `RunError` for what fails, and
    whatever a network or a function of Python raised.
    """
    if resume and force:
        raise ValueError("`resume` continues a run and `force` replaces it; choose one")
    goes_on = resume or shard is not None
    shown = _shown(progress)
    with _Signals(told=progress is True) as signals, _Shown(shown):
        folder, _ = _dtta.run(
            _experiment(experiment),
            _overrides(overrides),
            out=None if out is None else os.fspath(out),
            existing="replace" if force else "resume" if goes_on else "keep",
            shard=shard,
            checkpoint_every=checkpoint_every,
            device=device,
            denoiser_device=denoiser_device,
            backbone=backbone,
            denoiser=denoiser,
            mapper=None if mapper is None else MapperFunction(mapper),
            metric=None if metric is None else MetricFunction(metric),
            progress=shown,
            stopping=signals.stopping,
        )
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
    description = _document(described)
    if description.get("status") not in STATUS:
        raise ExperimentError(f"`{described}` says no status of a run", str(described))
    records, summary = folder / "records.jsonl", folder / "summary.json"
    return Run(
        folder,
        description["status"],
        Records.read(records) if records.is_file() else Records({}),
        _summary(summary) if summary.is_file() else None,
        description,
    )


STATUS = ("running", "finished", "interrupted", "failed")


def _document(path: Path) -> dict[str, Any]:
    """The object of JSON in a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExperimentError(f"`{path}` is not JSON: {error}", str(path)) from None
    if not isinstance(found, dict):
        raise ExperimentError(f"`{path}` is no object of JSON", str(path))
    return found


def _summary(path: Path) -> Summary:
    raw = _document(path)
    try:
        return Summary.of(raw)
    except (KeyError, TypeError) as error:
        raise ExperimentError(f"`{path}` is no summary of this version of dtta: it lacks {error}", str(path)) from None


def _experiment(experiment: Experiment) -> Any:
    return dict(experiment) if isinstance(experiment, Mapping) else os.fspath(experiment)


def _overrides(overrides: Optional[Mapping[str, Any]]) -> list[str]:
    return [f"{place}={json.dumps(value)}" for place, value in (overrides or {}).items()]


def _shown(progress: Union[bool, Progress]) -> Optional[Progress]:
    if not isinstance(progress, bool):
        return progress
    return _Bar() if progress else None


class _Signals:
    """Has signals that ask the process to stop wait for the end of the batch: SIGINT, SIGTERM and SIGHUP, as far as nobody else handles them.
    The second one does what it did before."""

    def __init__(self, told: bool) -> None:
        self._told = told
        self._asked: Optional[int] = None
        self._before: dict[int, Any] = {}

    def stopping(self) -> bool:
        """Whether there was one."""
        return self._asked is not None

    def __enter__(self) -> "_Signals":
        # Python lets no other thread say what signals do.
        if threading.current_thread() is threading.main_thread():
            for name, usual in [("SIGINT", signal.default_int_handler), ("SIGTERM", signal.SIG_DFL), ("SIGHUP", signal.SIG_DFL)]:
                # Windows has no SIGHUP.
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) == usual:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: Optional[FrameType]) -> None:
        if self._asked is not None:
            self._restore()
            signal.raise_signal(number)
            return
        self._asked = number
        if self._told:
            print("\ndtta: stopping after this batch", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._restore()
        # What failed beside is more than a stop.
        if self._asked is None or error is not None:
            return
        if self._asked == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise Interrupted(self._asked) from None


class _Shown:
    """Ends what shows progress."""

    def __init__(self, shown: Optional[Progress]) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if isinstance(self._shown, _Bar):
            self._shown.close()


class _Bar:
    """Progress in a notebook or a terminal: tqdm's where it is installed, or else a line that is written over. Nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._line: Optional[Callable[[str], None]] = None
        self._opened = False

    def __call__(self, done: int, total: int, domain: str) -> None:
        if not self._opened:
            self._open(total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_description_str(domain, refresh=False)
        elif self._line is not None:
            self._line(f"{domain} {done}/{total}")

    def _open(self, total: int) -> None:
        self._opened = True
        try:
            from tqdm.auto import tqdm
        except ImportError:
            self._line = _in_a_notebook() or _in_a_terminal()
            return
        # Silent where stderr is a file.
        self._bar = tqdm(total=total, unit=" samples", disable=None)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._line is not None and sys.stderr.isatty():
            print(file=sys.stderr)


def _in_a_terminal() -> Optional[Callable[[str], None]]:
    if not sys.stderr.isatty():
        return None
    return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _in_a_notebook() -> Optional[Callable[[str], None]]:
    """What shows a line of text in the output of a cell, and replaces the one before."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    handle: Any = None

    def show(text: str) -> None:
        nonlocal handle
        shown = {"text/plain": text}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return show
