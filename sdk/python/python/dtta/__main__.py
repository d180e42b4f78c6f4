"""`python -m dtta`: the command."""

from ._command import main

main()
