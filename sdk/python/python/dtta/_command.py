"""The command `dtta`."""

import signal
import sys
from typing import NoReturn

from ._dtta import command


def main() -> NoReturn:
    """Runs the command with the arguments of this process, and ends it with its exit code."""
    # The command has its own way to stop: it writes a checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(command(["dtta", *sys.argv[1:]]))
