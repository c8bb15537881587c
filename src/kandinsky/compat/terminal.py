"""The progress bar of the facades: on terminals only, and gone when the work is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, int, str], None]


@contextmanager
def progress_bar(wanted: bool = True) -> Iterator[Show]:
    """Yields show(done, total, what); it does nothing unless a bar is `wanted` and errors go to a
    terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, what: progress.update(task, description=what, total=total, completed=done)
