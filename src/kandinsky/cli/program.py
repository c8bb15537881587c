"""The command `kandinsky` as a process of its own."""

import os
import sys

from kandinsky.cli.main import run

SHORT = "generate"
"""The command that leaves nothing to be done at the end of a process: its files are written and closed."""


def program() -> None:
    """Runs the command line and ends the process.

    Where nothing waits for it, the interpreter is not taken apart: with torch in it that takes as long as a
    third of its import.
    """
    try:
        run()
    except SystemExit as ended:
        if sys.argv[1:2] == [SHORT] and (ended.code is None or isinstance(ended.code, int)):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)
        raise
