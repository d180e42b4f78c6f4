"""What goes wrong, as exceptions. Each has the exit code that the command would end with, which schedulers act on."""

from signal import Signals
from typing import NamedTuple, Optional


class Issue(NamedTuple):
    """One fault of a document."""

    pointer: str
    """Where, as a JSON pointer; empty for the whole document."""
    message: str
    """What."""


class ExperimentError(ValueError):
    """What a user can mend: an experiment, a file that it names, or the folder of a run."""

    exit_code: int = 2
    """Never try again."""
    file: Optional[str]
    """The file, where it is one's fault."""
    pointer: Optional[str]
    """Where in it, as a JSON pointer: that of the first issue."""
    message: str
    """What is wrong, with every issue."""
    issues: list[Issue]
    """Every fault that was found."""

    def __init__(
        self,
        message: str,
        file: Optional[str] = None,
        issues: Optional[list[tuple[str, str]]] = None,
    ) -> None:
        super().__init__(message, file, issues)
        self.message = message
        self.file = file
        self.issues = [Issue(*issue) for issue in issues or []]
        self.pointer = self.issues[0].pointer if self.issues else None

    def __str__(self) -> str:
        return self.message


class RunError(RuntimeError):
    """A run failed. What was finished is in its folder."""

    exit_code: int = 1
    """Try again a few times."""
    file: Optional[str]
    """The file, where it is one's fault."""

    def __init__(self, message: str, file: Optional[str] = None) -> None:
        super().__init__(message, file)
        self.message = message
        self.file = file

    def __str__(self) -> str:
        return self.message


class LockedError(RunError):
    """Another process works in the folder of the run. The same call goes on where that one ends."""

    exit_code: int = 75
    """Try again."""


class Interrupted(SystemExit):
    """SIGTERM or SIGHUP ended a run after its batch, with a checkpoint; the same call goes on, with `resume=True` or a `shard`.

    It is a `SystemExit`: where nothing catches it, it ends the process with exit code 75, which says to try again.
    """

    exit_code: int = 75
    """Try again."""
    signal: Signals
    """Which it was."""

    def __init__(self, number: int) -> None:
        super().__init__(self.exit_code)
        self.signal = Signals(number)

    def __reduce__(self) -> "tuple[type[Interrupted], tuple[int]]":
        return type(self), (int(self.signal),)

    def __str__(self) -> str:
        return f"{self.signal.name} ended the run after its batch"
