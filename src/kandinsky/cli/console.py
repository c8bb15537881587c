"""The two streams of the command line: results go to stdout, everything for human eyes to stderr."""

import functools
import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.text import Text

from kandinsky.cli.entry import INTERRUPTED, command_running, was_interrupted
from kandinsky.core.errors import KandinskyError, OutputError

P = ParamSpec("P")
R = TypeVar("R")


def err() -> Console:
    """The one console on stderr: what is printed while it shows bars goes above them."""
    stream = sys.stderr
    # While bars are shown, rich puts a stand-in for what others write to stderr.
    return _console(stream.rich_proxied_file if isinstance(stream, FileProxy) else stream)


@functools.lru_cache(maxsize=1)
def _console(stream: IO[str]) -> Console:
    # A stream that was redirected since then gets a console of its own.
    return Console(file=stream, soft_wrap=True, highlight=False)


def out() -> Console:
    """A console on stdout for tables; plain results are written with `say`."""
    return Console(highlight=False)


def say(line: str) -> None:
    """Writes one plain line to stdout, for people and for scripts.

    Nothing is lost where the reader is gone: the work goes on and says no more. Raises OutputError when stdout cannot
    be written, as on a full disk.
    """
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(f"stdout cannot be written ({error.strerror or error}).", "Choose another place.") from error


def say_bytes(data: bytes) -> None:
    """Writes a file to stdout."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(f"stdout cannot be written ({error.strerror or error}).", "Choose another place.") from error


def silence(stream: TextIO) -> None:
    """Lets everything written to a stream from now on go nowhere, what waits in it too: it cannot be written."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def any_letter() -> None:
    """Lets stdout and stderr take every letter: one that their encoding lacks is written as its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report(error: KandinskyError) -> None:
    """Writes an error as one red line on stderr."""
    err().print(Text("error: " + " ".join(str(error).split()), style="bold red"))


def warn(message: str) -> None:
    """Writes a warning as one yellow line on stderr."""
    err().print(Text("note: " + " ".join(message.split()), style="yellow"))


class _Lines(logging.Handler):
    """Log records as dim lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        err().print(Text(self.format(record), style="dim"))


def verbose() -> None:
    """Shows what the library logs."""
    log = logging.getLogger("kandinsky")
    log.setLevel(logging.DEBUG)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        handler = _Lines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


def interruptible(command: Callable[P, R]) -> Callable[P, R]:
    """Lets Ctrl-C end a command with the exit code that shells expect, once everything is closed."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with command_running():
                result = command(*args, **kwargs)
        except BaseException as error:
            if not (isinstance(error, KeyboardInterrupt) or was_interrupted()) or isinstance(error, typer.Exit):
                raise
        else:
            if not was_interrupted():
                return result
        warn("stopped.")
        raise typer.Exit(INTERRUPTED)

    return guarded
