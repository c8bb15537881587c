"""Decoding a folder once: a uint8 array at one size, kept on disk under the hash of what it was made from."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky.core.errors import DataError
from kandinsky.training.data.folder import Folder

Pixels = npt.NDArray[np.uint8]
Fit = Literal["cut", "squeeze"]
"""How a picture of another shape comes to its own: the longer side is cut, or both are scaled apart."""

_FORMAT = "premultiplied-1"


def decoded(folder: Folder, size: int, cache: Path, fit: Fit = "cut") -> Pixels:
    """All pictures of a folder as premultiplied RGBA, (N, 4, size, size) uint8, in the order of its records.

    With `fit` "cut" a transparent picture that is not square is padded, an opaque one is cut to its middle;
    with "squeeze" both are scaled. The array is
    memory-mapped from `cache` when it is there, and written there (atomically) when the folder allows it.

    Raises DataError for a size outside 8 to 1024 or a file that is no picture.
    """
    if not 8 <= size <= 1024:
        raise DataError(f"Pictures of {size} px cannot be prepared.", "Choose a size from 8 to 1024.")
    target = cache / f"pictures-{size}-{_digest(folder, size, fit)}.npy"
    if target.is_file():
        try:
            # Copy-on-write: torch wants a writable array, and the file must stay as it is.
            kept: Pixels = np.load(target, mmap_mode="c")
            if kept.shape == (len(folder.records), 4, size, size) and kept.dtype == np.uint8:
                return kept
        except (ValueError, EOFError, OSError):
            pass
    pixels = np.stack([_decode(folder.root / record.file_name, size, fit) for record in folder.records])
    _keep(pixels, target)
    return pixels


def _digest(folder: Folder, size: int, fit: Fit) -> str:
    digest = hashlib.blake2b(f"{_FORMAT}/{size}/{fit}".encode(), digest_size=16)
    for record in folder.records:
        digest.update(record.file_name.encode())
        digest.update(hashlib.blake2b((folder.root / record.file_name).read_bytes()).digest())
    return digest.hexdigest()


def _decode(path: Path, size: int, fit: Fit) -> Pixels:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{str(path)!r} is not a readable picture: {error}.", "Remove it or repair it."
        ) from error
    if fit == "cut":
        picture = _square(picture)
    if picture.size != (size, size):
        # Pillow resizes RGBA with the colours weighted by alpha, so that no dark fringe appears.
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    straight = np.asarray(picture, dtype=np.float32)
    alpha = straight[..., 3:]
    colours = np.rint(straight[..., :3] * alpha / 255)
    return np.concatenate((colours, alpha), axis=-1).astype(np.uint8).transpose(2, 0, 1)


def _square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width == height:
        return picture
    if picture.getchannel("A").getextrema()[0] == 255:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return picture.crop((left, top, left + side, top + side))
    side = max(width, height)
    frame = Image.new("RGBA", (side, side))
    frame.paste(picture, ((side - width) // 2, (side - height) // 2))
    return frame


def _keep(pixels: Pixels, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".tmp")
    except OSError:
        # A read-only data folder is no reason to fail: the array is in memory already.
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, pixels)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
