"""Events as progress bars, in a terminal or in a notebook."""

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from kandinsky.core.events import Decoding, Denoising, Encoding, Event, Events

SECONDS_BETWEEN_UPDATES = 0.2
"""Of a bar in a notebook, whose every update is a message to the browser."""


def seconds(value: float) -> str:
    """A duration as people read it: 0.4 s, 12 s, 3:05, 1:02:03."""
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def pace(elapsed: float, done: float, total: float | None, unit: str = "it") -> str:
    """What stands behind a bar: `1.2 s elapsed, 3 s left, 20 it/s`."""
    parts = [f"{seconds(elapsed)} elapsed"]
    if total and total > 1 and done and elapsed > 0:
        speed = done / elapsed
        if done < total:
            parts.append(f"{seconds((total - done) / speed)} left")
        parts.append(f"{speed:.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s")
    return ", ".join(parts)


class Pace(ProgressColumn):
    """The column of `pace`."""

    def render(self, task: Task) -> Text:
        """Time since the task began, time to its end, and its speed."""
        unit = str(task.fields.get("unit", "it"))
        said = pace(task.finished_time or task.elapsed or 0.0, task.completed, task.total, unit)
        return Text(said, no_wrap=True, overflow="ellipsis")


class Count(ProgressColumn):
    """How many steps of how many; nothing where there is no number of them."""

    def render(self, task: Task) -> Text:
        """The two numbers."""
        known = task.total is not None and task.total > 1
        return Text(f"{task.completed:.0f}/{task.total:.0f}" if known else "", justify="right", no_wrap=True)


class Bars:
    """One bar per stage (encode, prior, decoder, decode) with its step and the time left; cleared at the end.

    Silent where nobody watches: when `quiet`, and when the console is no terminal.
    """

    def __init__(self, console: Console, *columns: ProgressColumn, quiet: bool = False, transient: bool = True) -> None:
        shown = columns or (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(16),
            Count(),
            Pace(),
        )
        hidden = quiet or not console.is_terminal
        # Lines for scripts go to stdout as they are, also while a bar is shown: only where both are one terminal may
        # they be drawn around it.
        to_console = sys.stdout.isatty()
        self._progress = Progress(
            *shown, console=console, transient=transient, disable=hidden, redirect_stdout=to_console
        )
        self._tasks: dict[str, TaskID] = {}
        self.title = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def start(self, title: str) -> None:
        """Begins a new piece of work: old bars go, `title` stands before the stages."""
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        self.title = title

    def update(self, stage: str, done: float, total: float | None, text: str = "", unit: str = "it") -> None:
        """Sets a stage's bar; without a total it only shows that something goes on."""
        if stage not in self._tasks:
            label = f"{self.title} {stage}".strip()
            self._tasks[stage] = self._progress.add_task(label, total=total, text=text, unit=unit)
        self._progress.update(self._tasks[stage], completed=done, total=total, text=text)

    def note(self, message: str) -> None:
        """Writes a line above the bars."""
        self._progress.console.print(f"note: {message}", style="yellow", markup=False)

    def download(self, name: str, done: float, total: float | None) -> None:
        """Sets the bar of a file that is being fetched; `done` and `total` in bytes, shown in MB."""
        self.update(f"{name} (MB)", round(done / 1e6), None if total is None else max(1, round(total / 1e6)), unit="MB")

    def show(self, event: Event) -> None:
        """Shows an event of a generation; events that are no progress are left alone."""
        match event:
            case Encoding(stage=stage):
                self.update(f"encoding {stage}", 0, None)
            case Denoising(stage=stage, step=step, total=total):
                self._finish_waiting()
                self.update(stage, step, total)
            case Decoding():
                self.update("decoding", 0, None)
            case _:
                self._finish_waiting()

    def _finish_waiting(self) -> None:
        for task in self._progress.tasks:
            if task.total is None:
                self._progress.update(task.id, total=1, completed=1)


class Notebook(Protocol):
    """What a running notebook offers: IPython's `display`."""

    def display(self, *objects: object, **options: object) -> Any: ...


def notebook() -> Notebook | None:
    """IPython's display functions where a notebook runs this; None elsewhere. Nothing is imported for it."""
    shell, shown = sys.modules.get("IPython"), sys.modules.get("IPython.display")
    running = None if shell is None else shell.get_ipython()
    # A terminal's shell has no kernel that could send anything to a browser.
    return shown if running is not None and "IPKernelApp" in running.config else None


class NotebookBar:
    """One bar below a notebook's cell, updated in place."""

    def __init__(self, where: Notebook) -> None:
        self._html = where.HTML  # type: ignore[attr-defined]
        self._handle = where.display(self._html(""), display_id=True)
        self._stage, self._begun, self._shown = "", time.monotonic(), 0.0

    def show(self, event: Event) -> None:
        """Shows an event of a generation."""
        match event:
            case Denoising(stage=stage, step=step, total=total):
                self._update(stage, step, total)
            case Encoding(stage=stage):
                self._update(f"encoding {stage}", 0, None)
            case Decoding():
                self._update("decoding", 0, None)

    def close(self) -> None:
        """Takes the bar away."""
        self._handle.update(self._html(""))

    def _update(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._shown = stage, now, 0.0
        if now - self._shown < SECONDS_BETWEEN_UPDATES and done != total:
            return
        self._shown = now
        bar = "<progress></progress>" if total is None else f'<progress value="{done}" max="{total}"></progress>'
        count = "" if total is None else f"{done}/{total}, "
        text = html.escape(f"{stage} {count}{pace(now - self._begun, done, total)}")
        self._handle.update(self._html(f"{bar} {text}"))


@contextmanager
def shown() -> Iterator[Callable[[Event], None]]:
    """A function that shows events as a bar: in a notebook below the cell, else on a terminal's stderr."""
    if (where := notebook()) is not None:
        bar = NotebookBar(where)
        try:
            yield bar.show
        finally:
            bar.close()
    else:
        with Bars(Console(stderr=True)) as bars:
            yield bars.show


def followed(events: Events) -> Events:
    """The events, each shown as progress when it comes."""
    with closing(events), shown() as show:
        for event in events:
            show(event)
            yield event
