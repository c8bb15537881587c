"""The events of a training run, from which the command line draws its progress."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Started:
    """A stage begins or continues: `step` is where, `parameters` how many numbers learn."""

    stage: str
    step: int
    total: int | None
    parameters: int


@dataclass(frozen=True)
class LearnsFrom:
    """What a stage found to learn from, before it begins.

    `captions` is how many of the `images` have one, 0 where none is read; `sentences` how many are said of all images
    in their place. `left_out` counts files and images by reason; `shapes` the images of each bucket, "WIDTHxHEIGHT";
    `cut` are captions or sentences that the text encoders do not read to their end. `note` says what has no effect.
    """

    stage: str
    images: int
    captions: int
    held_out: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, int] = field(default_factory=dict)
    cut: int = 0
    note: str = ""
    sentences: int = 0

    @property
    def line(self) -> str:
        """All of it as one line."""
        said = f" with {_number(self.captions, 'caption')}" if self.captions else ", captions are not read"
        if self.sentences:
            said = f" with {_number(self.sentences, 'sentence')} for all, captions are not read"
        parts = [f"learns from {_number(self.images, 'image')}{said}"]
        if self.held_out:
            parts.append(f"{self.held_out} held out")
        if left := ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()) if count):
            parts.append(f"left out: {left}")
        if self.shapes:
            parts.append("shapes: " + ", ".join(f"{name} ({count})" for name, count in self.shapes.items()))
        if self.cut:
            what = "sentence" if self.sentences else "caption"
            parts.append(f"{_number(self.cut, what)} too long, cut by the text encoder")
        return "; ".join([*parts, *([self.note] if self.note else [])])


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Preparing:
    """Something is computed once before a stage, `done` of `total`."""

    stage: str
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """`step` steps are done; `losses` are those of the last logged step.

    `fraction` in [0, 1] of the stage, `images_per_second` since this process started, `remaining` in seconds.
    """

    stage: str
    step: int
    total: int | None
    fraction: float
    losses: dict[str, float]
    rate: float
    images_per_second: float
    remaining: float


@dataclass(frozen=True)
class Measured:
    """What the stage measures of itself at intervals, on examples kept out of its training."""

    stage: str
    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Sampled:
    """A sample grid was written."""

    stage: str
    step: int
    path: Path


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    stage: str
    step: int
    path: Path


@dataclass(frozen=True)
class Warned:
    """Something the user should know, for example a damaged checkpoint that was passed over."""

    message: str


@dataclass(frozen=True)
class Stopped:
    """The run ended before its time but cleanly; `reason` is "interrupted"."""

    stage: str
    step: int
    reason: str


@dataclass(frozen=True)
class Finished:
    """A stage is done; `losses` are the last logged ones, `folder` holds its checkpoints."""

    stage: str
    step: int
    folder: Path
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What a run made was written, ready to load; `use` is the flag of `kandinsky generate` that loads it.

    `words` are the files of learned words that it was made with, and is to be used with.
    """

    path: Path
    use: Literal["--model", "--prior", "--lora", "--words"] = "--model"
    words: tuple[str, ...] = ()


Event = (
    Started | LearnsFrom | Preparing | Progress | Measured | Sampled | Saved | Warned | Stopped | Finished | Exported
)


def result_of(work: Generator[object, None, T]) -> T:
    """Runs a generator to its end, whatever it yields, and returns its value."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: T = stop.value
            return result
