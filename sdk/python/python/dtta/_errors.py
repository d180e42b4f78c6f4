"""What goes wrong, as exceptions."""

from typing import NamedTuple, Optional


class Issue(NamedTuple):
    """One fault of a document."""

    pointer: str
    """Where, as a JSON pointer; empty for the whole document."""
    message: str
    """What."""


class ExperimentError(ValueError):
    """What a user can mend: an experiment, a file that it names, or the folder of a run."""

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
    """A run failed, or was interrupted. What was finished is in its folder."""
