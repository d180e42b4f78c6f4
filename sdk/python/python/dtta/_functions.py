"""Functions of Python in the place of plugins, to try out what will be one: a mapper, and a metric with how its scores are to be read."""

import builtins
import functools
import hashlib
import inspect
import sys
import types
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

if TYPE_CHECKING:
    from torch import Tensor

Mapper = Callable[[dict[str, "Tensor"]], Union["Tensor", Mapping[str, "Tensor"]]]
"""Of the head's outputs by name, `[B, …]`, what each slot of the denoiser is told, `[B, …]`; a tensor stands for that of the only slot."""

Score_of = Callable[[dict[str, "Tensor"], dict[str, "Tensor"]], Mapping[str, float]]
"""Of predictions and targets of one sample by name, `[1, …]`, its scores by name."""


@dataclass(frozen=True)
class Score:
    """How a score is to be read."""

    higher_is_better: Optional[bool] = None
    """None for what is neither better nor worse."""
    unit: Optional[str] = None
    """`share` is a fraction, which is shown in percent."""


@dataclass(frozen=True)
class Metric:
    """A metric that is a function of one sample. The means of its scores over samples are reported, and merge as those of plugins do."""

    function: Score_of
    scores: Mapping[str, Score]
    """The scores that it gives to each sample, with how they are to be read; the first one leads."""


class MapperFunction:
    """A mapper as dtta asks for it."""

    def __init__(self, function: Mapper) -> None:
        if not callable(function):
            raise TypeError(f"the mapper is a {type(function).__name__}, expected a function")
        self._function = function

    def _specification(self) -> dict[str, Any]:
        return {"name": _name(self._function), "digest": digest(self._function)}

    def _forward(self, lent: list[Any], tracked: list[bool], names: dict[str, list[str]]) -> Any:
        import torch

        from .torch import _answer, _taken

        outputs, slots = names["outputs"], names["slots"]
        inputs = [_taken(tensor) for tensor in lent]
        for tensor, is_tracked in zip(inputs, tracked):
            tensor.requires_grad_(is_tracked)
        with torch.set_grad_enabled(any(tracked)):
            told = self._function(dict(zip(outputs, inputs)))
        if isinstance(told, torch.Tensor) and len(slots) == 1:
            told = {slots[0]: told}
        if not isinstance(told, Mapping):
            raise TypeError(f"the mapper answers with {type(told).__name__}, expected a dict with a tensor for each of {slots}")
        if sorted(told) != sorted(slots):
            raise ValueError(f"the mapper fills {sorted(told)}; the denoiser has the slots {sorted(slots)}")
        answers = [told[slot] for slot in slots]
        if any(tracked) and not any(answer.requires_grad for answer in answers):
            raise ValueError("nothing that the mapper answers with depends on its inputs in PyTorch's graph, so that nothing would be adapted")
        return _answer(answers, inputs, tracked)


class MetricFunction:
    """A metric as dtta asks for it."""

    def __init__(self, metric: Union[Metric, Score_of]) -> None:
        self._metric = metric if isinstance(metric, Metric) else Metric(metric, {})
        if not callable(self._metric.function):
            raise TypeError(f"the metric is a {type(self._metric.function).__name__}, expected a function, or a `dtta.Metric`")

    def _specification(self) -> dict[str, Any]:
        scores: list[dict[str, Any]] = [
            {"name": name, "higher_is_better": score.higher_is_better, "unit": score.unit, "leads": place == 0}
            for place, (name, score) in enumerate(self._metric.scores.items())
        ]
        function = self._metric.function
        return {"name": _name(function), "digest": digest(function), "scores": scores}

    def _score(self, predictions: dict[str, Any], targets: dict[str, Any]) -> dict[str, float]:
        found = self._metric.function(_tensors(predictions), _tensors(targets))
        if not isinstance(found, Mapping):
            raise TypeError(f"the metric answers with {type(found).__name__}, expected a dict with a number for each score")
        said = list(self._metric.scores)
        if said and sorted(found) != sorted(said):
            raise ValueError(f"the metric gives the scores {sorted(found)}, and says {sorted(said)}")
        return {name: float(score) for name, score in found.items()}


def _tensors(given: dict[str, Any]) -> dict[str, "Tensor"]:
    import torch

    from .torch import _taken

    return {name: _taken(tensor).to(torch.int64) if whole else _taken(tensor) for name, (tensor, whole) in given.items()}


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"python:{named.__module__}.{named.__qualname__}"


# --- What a function is ---------------------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """It cannot be known whether another is the same."""


def digest(function: Any) -> str:
    """SHA-256 of a function's source, with all that it refers to: values, tensors, modules of PyTorch, other functions, and of packages the
    version. Where some of it cannot be known, it is taken for no other, not even for itself."""
    told = hashlib.sha256(sys.version.encode())
    try:
        _tell(function, told, [])
    except _Unknown:
        return hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    return told.hexdigest()


def _tell(value: Any, told: Any, within: list[Any]) -> None:
    told.update(f"\n{type(value).__name__} ".encode())
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes)):
        told.update(repr(value).encode())
        return
    for place, other in enumerate(within):
        if other is value:
            told.update(f"again {place}".encode())
            return
    within.append(value)
    if isinstance(value, (tuple, list)):
        for part in value:
            _tell(part, told, within)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _tell(name, told, within)
            _tell(part, told, within)
    elif isinstance(value, (set, frozenset)):
        told.update(repr(sorted(map(repr, value))).encode())
    elif isinstance(value, types.ModuleType):
        told.update(f"{value.__name__} {_version(value.__name__)}".encode())
    elif isinstance(value, types.MethodType):
        _tell(value.__func__, told, within)
        _tell(value.__self__, told, within)
    elif (package := _package(value)) is not None:
        told.update(package.encode())
    elif isinstance(value, types.FunctionType):
        _tell_function(value, told, within)
    elif isinstance(value, type):
        told.update(_source(value).encode())
        for base in value.__bases__:
            _tell(base, told, within)
        for part in vars(value).values():
            inner = getattr(part, "__func__", getattr(part, "fget", part))
            if isinstance(inner, types.FunctionType):
                _tell_function(inner, told, within)
    elif callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        tensor = value.detach().cpu().contiguous()
        told.update(f"{tensor.dtype} {list(tensor.shape)} {tensor.flatten().tolist()}".encode())
    elif hasattr(value, "__array_interface__"):
        told.update(f"{value.dtype} {value.shape} ".encode() + value.tobytes())
    elif isinstance(value, functools.partial):
        _tell((value.func, value.args, value.keywords), told, within)
    else:
        # One that is written in Python has nothing but what `vars` says.
        for base in type(value).__mro__[:-1]:
            _source(base)
        _tell(type(value), told, within)
        try:
            _tell(vars(value), told, within)
        except TypeError:
            raise _Unknown from None


def _tell_function(function: types.FunctionType, told: Any, within: list[Any]) -> None:
    code = function.__code__
    # Two lambdas may share a line.
    told.update(_source(function).encode() + code.co_code)
    told.update(repr([part for part in code.co_consts if not isinstance(part, types.CodeType)]).encode())
    _tell((function.__defaults__, function.__kwdefaults__), told, within)
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            _tell((name, cell.cell_contents), told, within)
        except ValueError:
            raise _Unknown from None
    for name in sorted(_names(code)):
        if name in function.__globals__:
            _tell((name, function.__globals__[name]), told, within)


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        raise _Unknown from None


def _package(value: Any) -> Optional[str]:
    """The name and version of what comes with Python or with a package that has a version; nothing for objects, and for one's own."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    is_code = isinstance(value, type) or callable(value) and not hasattr(value, "__dict__") or inspect.isroutine(value)
    if not is_code or not isinstance(name, str):
        return None
    try:
        return f"{module}.{name} {_version(module or builtins.__name__)}"
    except _Unknown:
        if isinstance(value, (type, types.FunctionType)):
            return None
        raise


def _version(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return "of Python"
    version = getattr(sys.modules.get(top), "__version__", None)
    if not isinstance(version, str):
        raise _Unknown
    return version
