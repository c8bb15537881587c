"""The progress bar of the facades: on terminals only, and gone when the work is done."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kandinsky.core.events import Denoising, Event, Finished, Warned

if TYPE_CHECKING:
    from PIL.Image import Image

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


def shown(events: Iterable[Event], progress: bool = True) -> "list[Image]":
    """The images of a request's events; steps are shown, and what was not read of a text is warned of."""
    images: list[Image] = []
    with progress_bar(progress) as show:
        for event in events:
            match event:
                case Denoising():
                    show(event.step, event.total, event.stage)
                case Warned():
                    warnings.warn(event.message, UserWarning, stacklevel=5)
                case Finished():
                    images = event.result.images
    return images
