"""Events of a running request: a stream of small values, of which the last is the result."""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from kandinsky.core.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Encoding:
    """Conditions are being computed; `stage` says which, such as "text" or "image"."""

    stage: str


@dataclass(frozen=True)
class Denoising:
    """Step `step` of `total` (from 1) of the prior or of the decoder is done.

    `preview`, where there is one, decodes the present estimate cheaply into one small image per image
    asked for; it costs nothing until it is called, and is valid until the stream goes on.
    """

    stage: Literal["prior", "decoder"]
    step: int
    total: int
    preview: "Callable[[], list[Image]] | None" = field(default=None, compare=False)


@dataclass(frozen=True)
class Decoding:
    """The latents are being decoded into images."""


@dataclass(frozen=True)
class Warned:
    """Something to know that does not stop the work, such as the part of a prompt that was cut off.

    `text` is the prompt that it is about; None for what is about all of the request.
    """

    message: str
    text: str | None = None


@dataclass(frozen=True)
class Result:
    """The images of a request, their seeds, and what was asked with every default filled in.

    `images[i]` is a PIL RGB image made from `seeds[i]`; `request` holds JSON values (`Request.from_json`
    reads them); `model` names the checkpoint, as `load` takes it; `settings` are the other arguments of
    `load` that shape pixels; `batch` is how many images were computed at once (0: all of them); `warnings`
    are sentences on what was done otherwise than asked, such as the end of a prompt that was not read.

    It is a sequence of its images: `len(result)`, `result[0]`, `for image in result`. A notebook shows them.
    """

    images: "list[Image]"
    seeds: list[int]
    request: dict[str, Any]
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    batch: int = 0
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> "Iterator[Image]":
        return iter(self.images)

    @overload
    def __getitem__(self, index: int) -> "Image": ...
    @overload
    def __getitem__(self, index: slice) -> "list[Image]": ...
    def __getitem__(self, index: int | slice) -> "Image | list[Image]":
        return self.images[index]

    def __repr__(self) -> str:
        sizes = " or ".join(dict.fromkeys(f"{image.width} x {image.height}" for image in self.images))
        count = f"{len(self)} image{'' if len(self) == 1 else 's'}"
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return f"<Result: {count} of {sizes or 'no size'} by {self.model or 'a model'}, seeds {self.seeds}{warned}>"

    def grid(self, columns: int | None = None, *, labels: bool = False) -> "Image":
        """One image of all images in rows, by default about as wide as high.

        With `labels` each has its prompt and seed below it. Raises OutputError without images, and for columns below 1.
        """
        from kandinsky.core.sheets import sheet

        columns = math.ceil(math.sqrt(len(self))) if columns is None else columns
        return sheet(self.images, columns, self._labels() if labels else None)

    def show(self) -> None:
        """Shows the images: in a notebook below the cell, else in a window of the system's viewer."""
        from kandinsky.core.progress import notebook

        if (found := notebook()) is not None:
            found.display(self)
        else:
            self.grid().show()

    def _labels(self) -> list[str]:
        from kandinsky.core.metadata import prompt_text, single

        prompts = [prompt_text(single(self.request, index).get("prompt")) for index in range(len(self))]
        return [f"{prompt}, seed {seed}" for prompt, seed in zip(prompts, self.seeds, strict=True)]

    def _repr_png_(self) -> bytes | None:
        from kandinsky.core.sheets import png

        return png(self.grid()) if self.images else None

    def _repr_html_(self) -> str:
        """The images side by side, each with its prompt and seed; small ones are enlarged."""
        from kandinsky.core.sheets import figures

        return figures(self.images, self._labels() if "prompt" in self.request else [""] * len(self), self.warnings)

    def save(self, path: str | Path) -> list[Path]:
        """Writes every image with the metadata that repeats it, and returns where.

        The suffix chooses the format (.png, .jpg, .webp). One image goes to `path` itself; several go to
        `name-0001.png`, `name-0002.png`, ..., or wherever `{index}` and `{seed}` in `path` lead. Existing
        files are replaced. Raises OutputError when that cannot be written.
        """
        from kandinsky.core.metadata import metadata_of, write_image

        targets = self._targets(Path(path))
        for index, (image, target) in enumerate(zip(self.images, targets, strict=True)):
            write_image(image, target, metadata_of(self, index))
        return targets

    def _targets(self, path: Path) -> list[Path]:
        if "{index" in path.name or "{seed" in path.name:
            try:
                names = [path.name.format(index=i + 1, seed=seed) for i, seed in enumerate(self.seeds)]
            except (KeyError, ValueError, IndexError, AttributeError) as error:
                raise OutputError(f"{path.name} is not a pattern ({error}).", "Use {index} and {seed}.") from error
            if len(set(names)) < len(names):
                raise OutputError(f"{path.name} gives several images one name.", "Put {index} into it.")
            return [path.with_name(name) for name in names]
        if len(self.images) == 1:
            return [path]
        return [numbered(path, index) for index in range(len(self.images))]


def numbered(path: Path, index: int) -> Path:
    """`fox.png` as `fox-0001.png` for index 0, `fox-0002.png` for index 1, and so on."""
    return path.with_name(f"{path.stem}-{index + 1:04d}{path.suffix}")


@dataclass(frozen=True)
class Finished:
    """A request is done: the last event of its stream, or among several that of request `index` (from 0)."""

    result: Result
    index: int = 0


Event: TypeAlias = Encoding | Denoising | Decoding | Warned | Finished
Events: TypeAlias = Generator[Event, None, None]
