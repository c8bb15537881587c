"""Events as progress bars."""

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kandinsky.core.events import Decoding, Denoising, Encoding, Event


class Bars:
    """One bar per stage (encode, prior, decoder, decode) with its step and the time left; cleared at the end.

    Silent where nobody watches: when `quiet`, and when the console is no terminal.
    """

    def __init__(self, console: Console, *columns: ProgressColumn, quiet: bool = False, transient: bool = True) -> None:
        steps = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        shown = columns or (*steps, *times)
        hidden = quiet or not console.is_terminal
        self._progress = Progress(*shown, console=console, transient=transient, disable=hidden)
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

    def update(self, stage: str, done: float, total: float | None, text: str = "") -> None:
        """Sets a stage's bar; without a total it only shows that something goes on."""
        if stage not in self._tasks:
            label = f"{self.title} {stage}".strip()
            self._tasks[stage] = self._progress.add_task(label, total=total, text=text)
        self._progress.update(self._tasks[stage], completed=done, total=total, text=text)

    def download(self, name: str, done: float, total: float | None) -> None:
        """Sets the bar of a file that is being fetched; `done` and `total` in bytes, shown in MB."""
        self.update(f"{name} (MB)", round(done / 1e6), None if total is None else max(1, round(total / 1e6)))

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
