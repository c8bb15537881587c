"""Events of a running request: a stream of small values, of which the last is the result."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

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
    """Something to know that does not stop the work, such as the part of a prompt that was cut off."""

    message: str


@dataclass(frozen=True)
class Result:
    """The images of a request, their seeds, and what was asked with every default filled in.

    `images[i]` is a PIL RGB image made from `seeds[i]`; `request` holds JSON values (`Request.from_json`
    reads them); `model` names the checkpoint, as `load` takes it; `settings` are the other arguments of
    `load` that shape pixels; `batch` is how many images were computed at once (0: all of them).
    """

    images: "list[Image]"
    seeds: list[int]
    request: dict[str, Any]
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    batch: int = 0

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
