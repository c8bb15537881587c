"""Small helpers that existing code imports beside the pipelines."""

import io
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky.core.errors import DataError, RequestError
from kandinsky.core.images import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT = 30
LARGEST_DOWNLOAD = 256 * 1024 * 1024


def load_image(image: Any, convert_method: Any = None) -> "Image":
    """A picture from a path, an http(s) address or a PIL image, as RGB; `convert_method(picture)` replaces
    that.

    Raises DataError for an address that does not answer, RequestError for what is no picture.
    """
    source = image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        source = _downloaded(image)
    elif isinstance(image, str):
        source = Path(image)
    if convert_method is None:
        return open_picture(source)
    import PIL.Image

    picture: Image = convert_method(source if isinstance(source, PIL.Image.Image) else PIL.Image.open(source))
    return picture


def _downloaded(address: str) -> "Image":
    import PIL.Image

    request = urllib.request.Request(address, headers={"User-Agent": "kandinsky"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            data = answer.read(LARGEST_DOWNLOAD + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DataError(
            f"{address} cannot be loaded ({error}).", "Check the address and the network."
        ) from error
    if len(data) > LARGEST_DOWNLOAD:
        raise DataError(f"{address} holds more than {LARGEST_DOWNLOAD} bytes.", "Is it a picture?")
    try:
        picture = PIL.Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, ValueError) as error:
        raise DataError(f"{address} is not a picture.", "Give the address of the picture itself.") from error
    return picture


def make_image_grid(images: Sequence[Any], rows: int, cols: int, resize: int | None = None) -> "Image":
    """Pictures side by side, row after row, each of the first one's size (or resize x resize pixels).

    Raises RequestError unless there are rows x cols of them.
    """
    import PIL.Image

    if rows < 1 or cols < 1 or len(images) != rows * cols:
        raise RequestError(
            f"{len(images)} pictures do not fill {rows} x {cols}.",
            f"Use {math.ceil(len(images) / max(cols, 1))} rows, or fewer columns.",
        )
    pictures = [open_picture(image) for image in images]
    if resize is not None:
        pictures = [picture.resize((resize, resize)) for picture in pictures]
    width, height = pictures[0].size
    grid = PIL.Image.new("RGB", (cols * width, rows * height))
    for index, picture in enumerate(pictures):
        grid.paste(picture, (index % cols * width, index // cols * height))
    return grid
