"""Decoding a folder once: a uint8 array at one size, kept on disk under the hash of what it was made from."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky.core.errors import DataError, OutputError, RequestError
from kandinsky.core.files import whole_file
from kandinsky.core.image_files import image_size
from kandinsky.core.images import read_layers
from kandinsky.training.config.run import Fit
from kandinsky.training.data.folder import Folder

Pixels = npt.NDArray[np.uint8]

LARGEST = 2048
_FORMAT = "premultiplied-2"
"""Of what is kept, and of the reader that made it: what an older one left is not used again."""
WORKERS = 8
"""The most threads that decode; Pillow lets others run meanwhile."""


def decoded(
    folder: Folder, size: int | tuple[int, int], cache: Path, fit: Fit = "cut", *, hints: bool = False
) -> Pixels:
    """All images of a folder as premultiplied RGBA, (N, 4, H, W) uint8, in the order of its records.

    `size` is the side of squares, or (H, W). With `fit` "cut" a transparent image of another shape is
    padded, an opaque one is cut to its middle; with "squeeze" both are scaled. With `hints` these are the
    records' hints, padded or cut as their images are. Workers decode into a file of `cache`, from
    which the array is memory-mapped; where that folder takes no files, it is in memory.

    Raises DataError for a size outside 8 to 2048 or a file that is no image.
    """
    shape = (size, size) if isinstance(size, int) else size
    for side in shape:
        if not 8 <= side <= LARGEST:
            raise DataError(f"Images of {side} px cannot be prepared.", f"Choose a size from 8 to {LARGEST}.")
    name = "x".join(str(side) for side in dict.fromkeys(shape))
    sources = [
        (folder.root / record.hint, folder.root / record.file_name) if hints else (folder.root / record.file_name,)
        for record in folder.records
    ]
    target = cache / f"images-{name}-{_digest(folder, sources, shape, fit)}.npy"
    if target.is_file():
        try:
            # Copy-on-write: torch wants a writable array, and the file must stay as it is.
            kept: Pixels = np.load(target, mmap_mode="c")
            if kept.shape == (len(folder.records), 4, *shape) and kept.dtype == np.uint8:
                return kept
        except (ValueError, EOFError, OSError):
            pass
    everything = (len(sources), 4, *shape)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as aside:
            # As large as all images are, and never in memory as a whole.
            _fill(np.lib.format.open_memmap(aside, "w+", np.uint8, everything), sources, fit)
        return cast(Pixels, np.load(target, mmap_mode="c"))
    except (OSError, OutputError):
        # A folder that takes no files, or a full disk, is no reason to fail.
        return _fill(np.empty(everything, np.uint8), sources, fit)


def _fill(pixels: Pixels, sources: Sequence[tuple[Path, ...]], fit: Fit) -> Pixels:
    """Decodes every image to its place, several at a time."""
    shape = (pixels.shape[-2], pixels.shape[-1])

    def fill(number: int) -> None:
        pixels[number] = _decode(sources[number], shape, fit)

    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as workers:
        try:
            for _ in workers.map(fill, range(len(sources))):
                pass
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    return pixels


def _digest(folder: Folder, sources: Sequence[tuple[Path, ...]], shape: tuple[int, int], fit: Fit) -> str:
    digest = hashlib.blake2b(f"{_FORMAT}/{shape}/{fit}".encode(), digest_size=16)
    for record, source in zip(folder.records, sources, strict=True):
        digest.update(os.fsencode(record.file_name))
        for path in source:
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def layers_of(path: Path) -> Image.Image:
    """An image file as RGBA, as requests read it; DataError that names it when it is none."""
    with _named(path):
        return read_layers(path)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of an image file; DataError that names it when it is none."""
    with _named(path):
        return image_size(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise DataError(
            f"{path.name!r} is not a readable image: {error.message} (in {path.parent})", "Remove it or repair it."
        ) from error


def _decode(source: tuple[Path, ...], shape: tuple[int, int], fit: Fit) -> Pixels:
    """The first of the files, padded or cut as the last one is."""
    image = layers_of(source[0])
    if fit == "cut" and image.width * shape[0] != image.height * shape[1]:
        like = image if len(source) == 1 else layers_of(source[-1])
        opaque = like.getchannel("A").getextrema()[0] == 255
        image = _cut(image, *shape, opaque=opaque)
    if image.size != shape[::-1]:
        # Pillow resizes RGBA with the colours weighted by alpha, so that no dark fringe appears.
        image = image.resize(shape[::-1], Image.Resampling.LANCZOS)
    straight = np.asarray(image, dtype=np.float32)
    alpha = straight[..., 3:]
    colours = np.rint(straight[..., :3] * alpha / 255)
    return np.concatenate((colours, alpha), axis=-1).astype(np.uint8).transpose(2, 0, 1)


def _cut(image: Image.Image, tall: int, wide: int, *, opaque: bool) -> Image.Image:
    """The image in the proportions `tall` to `wide`: cut where it is opaque, else with room around it."""
    width, height = image.size
    longer = width * tall > height * wide
    if opaque:
        kept = (height * wide / tall, height) if longer else (width, width * tall / wide)
        new_width, new_height = max(1, round(kept[0])), max(1, round(kept[1]))
        left, top = (width - new_width) // 2, (height - new_height) // 2
        return image.crop((left, top, left + new_width, top + new_height))
    needed = (width, width * tall / wide) if longer else (height * wide / tall, height)
    frame = Image.new("RGBA", (round(needed[0]), round(needed[1])))
    frame.paste(image, ((frame.width - width) // 2, (frame.height - height) // 2))
    return frame
