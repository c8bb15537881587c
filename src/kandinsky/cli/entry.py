"""The first lines of the command `kandinsky`: from here on Ctrl-C ends it in one line, with exit code 130."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended (128 + SIGINT)."""
_seen: list[bool] = []


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed while a command ran: what came of it may be another exception by now, or nothing."""
    return bool(_seen)


@contextmanager
def command_running() -> Iterator[None]:
    """Inside, Ctrl-C is a KeyboardInterrupt, so that files are closed and removed; outside it ends the process."""
    _seen.clear()
    outside = signal.getsignal(signal.SIGINT)
    if outside is not _stop:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _stop)


def _interrupt(*_: object) -> None:
    _seen.append(True)
    raise KeyboardInterrupt


def _stop(*_: object) -> None:
    os.write(2, b"note: stopped.\n")
    os._exit(INTERRUPTED)


def main() -> None:
    """Runs the command line as a process of its own."""
    # A shell's background job ignores Ctrl-C, and so does what it starts.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    from kandinsky.cli.main import program

    program()
