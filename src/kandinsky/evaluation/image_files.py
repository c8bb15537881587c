"""Images to be measured: a folder, or what `kandinsky batch` left, one after the other with their captions."""

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.core.errors import DataError, KandinskyError
from kandinsky.core.image_files import is_image_name
from kandinsky.core.images import open_image
from kandinsky.core.metadata import read_metadata
from kandinsky.core.texts import numbered_lines, read_text

if TYPE_CHECKING:
    from PIL.Image import Image

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own, or in a shard; `caption` is what it should show, where that is known."""

    path: Path
    caption: str | None = None
    member: str | None = None

    @property
    def name(self) -> str:
        """Where it lies, for messages."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)


class Reader:
    """Opens images one after the other; the shard of the last one stays open for the next."""

    def __init__(self) -> None:
        self._shard: tuple[Path, tarfile.TarFile] | None = None

    def open(self, image: ImageFile) -> "Image":
        """The image, RGB; DataError that names it when it cannot be read."""
        import PIL.Image

        try:
            if image.member is None:
                return open_image(image.path)
            held = self._archive(image.path).extractfile(image.member)
            assert held is not None
            return open_image(PIL.Image.open(io.BytesIO(held.read())))
        except (KandinskyError, OSError, KeyError, tarfile.TarError) as error:
            raise DataError(f"{image.name} cannot be measured: {error}", "Take it out, or make it anew.") from error

    def _archive(self, path: Path) -> tarfile.TarFile:
        if self._shard is None or self._shard[0] != path:
            self.close()
            self._shard = path, tarfile.open(path)  # noqa: SIM115  # closed by `close`
        return self._shard[1]

    def close(self) -> None:
        """Closes the shard that is open, if one is."""
        if self._shard is not None:
            self._shard[1].close()
            self._shard = None


def find_images(folder: str | Path) -> list[ImageFile]:
    """The images of a folder, in the order of their names, or in that of the manifest of a batch.

    A batch knows its captions; elsewhere they are read by `with_captions`. Hidden files are left out. Raises
    DataError for a folder without images, or for a batch of which rows are not drawn.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", "Give a folder of images.")
    if (root / MANIFEST).is_file():
        return _batch(root)
    hidden = [path for path in root.rglob("*") if path.name.startswith(".")]
    found = [
        ImageFile(path)
        for path in sorted(root.rglob("*"))
        if is_image_name(path) and path.is_file() and not any(path.is_relative_to(one) for one in hidden)
    ]
    if not found:
        raise DataError(
            f"{root} holds no image.", "Known are the suffixes that Pillow reads, such as .png, .jpg and .webp."
        )
    return found


def _batch(root: Path) -> list[ImageFile]:
    found: list[ImageFile] = []
    for number, line in numbered_lines(read_text(root / MANIFEST)):
        try:
            row = json.loads(line)
            state, prompt, files, shard = row["state"], row["prompt"], row.get("files", []), row.get("shard")
            names = [str(one["file"]) for one in files]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{root / MANIFEST} line {number} is damaged ({error!r}).", "Run the batch again."
            ) from error
        if state != "done":
            raise DataError(
                f"The row {row.get('id')!r} of {root} is {state}.",
                "Finish the batch first, or measure its files alone.",
            )
        caption = prompt if isinstance(prompt, str) else None
        places = [root / shard] * len(names) if shard else [root / name for name in names]
        members = names if shard else [None] * len(names)
        found += [ImageFile(place, caption, member) for place, member in zip(places, members, strict=True)]
    if not found:
        raise DataError(f"{root} holds no image yet.", "Run the batch first.")
    return found


def with_captions(images: list[ImageFile]) -> list[ImageFile]:
    """The images with their captions: of the batch, of the request in the file, or of a .txt beside it.

    Raises DataError that names the first without one.
    """
    return [one if one.caption is not None else ImageFile(one.path, _caption(one), one.member) for one in images]


def _caption(image: ImageFile) -> str:
    beside = image.path.with_suffix(".txt")
    if image.member is None and beside.is_file():
        return read_text(beside).strip()
    if image.member is None:
        try:
            prompt = read_metadata(image.path).request["prompt"]
            if isinstance(prompt, str):
                return prompt
        except KandinskyError:
            pass
    raise DataError(f"{image.name} has no caption.", f"Write it into {beside.name}, or leave out the metric clip.")


def opened(images: list[ImageFile], size: int) -> Iterator[list["Image"]]:
    """The images, `size` at a time."""
    with contextlib.closing(Reader()) as reader:
        for first in range(0, len(images), size):
            yield [reader.open(one) for one in images[first : first + size]]
