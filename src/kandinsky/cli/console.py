"""The two streams of the command line: results go to stdout, everything for human eyes to stderr."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from kandinsky.core.errors import KandinskyError

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended (128 + SIGINT)."""

P = ParamSpec("P")
R = TypeVar("R")


def err() -> Console:
    """A console on stderr, made when it is used so that redirections count."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def out() -> Console:
    """A console on stdout for tables; plain results are written with `say`."""
    return Console(highlight=False)


def say(line: str) -> None:
    """Writes one plain line to stdout, for people and for scripts."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def report(error: KandinskyError) -> None:
    """Writes an error as one red line on stderr."""
    err().print(Text("error: " + " ".join(str(error).split()), style="bold red"))


def warn(message: str) -> None:
    """Writes a warning as one yellow line on stderr."""
    err().print(Text("note: " + " ".join(message.split()), style="yellow"))


def interruptible(command: Callable[P, R]) -> Callable[P, R]:
    """Lets Ctrl-C end a command with the exit code that shells expect, once everything is closed."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            warn("stopped.")
            raise typer.Exit(INTERRUPTED) from None

    return guarded
