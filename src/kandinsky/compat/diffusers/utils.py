"""Small helpers that existing code imports beside the pipelines."""

import io
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky.core.errors import DataError, RequestError
from kandinsky.core.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT = 30
LARGEST_DOWNLOAD = 256 * 1024 * 1024


def load_image(image: Any, convert_method: Any = None) -> "Image":
    """An image from a path, an http(s) address or a PIL image, as RGB; `convert_method(image)` replaces
    that.

    Raises DataError for an address that does not answer, RequestError for what is no image.
    """
    source = image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        source = _downloaded(image)
    elif isinstance(image, str):
        source = Path(image)
    if convert_method is None:
        return open_image(source)
    import PIL.Image

    given_image: Image = convert_method(source if isinstance(source, PIL.Image.Image) else PIL.Image.open(source))
    return given_image


def _downloaded(address: str) -> "Image":
    import PIL.Image

    request = urllib.request.Request(address, headers={"User-Agent": "kandinsky"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            data = answer.read(LARGEST_DOWNLOAD + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DataError(f"{address} cannot be loaded ({error}).", "Check the address and the network.") from error
    if len(data) > LARGEST_DOWNLOAD:
        raise DataError(f"{address} holds more than {LARGEST_DOWNLOAD} bytes.", "Is it an image?")
    try:
        image = PIL.Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError) as error:
        raise DataError(f"{address} is not an image.", "Give the address of the image itself.") from error
    return image


def make_image_grid(images: Sequence[Any], rows: int, cols: int, resize: int | None = None) -> "Image":
    """Images side by side, row after row, each of the first one's size (or resize x resize pixels).

    Raises RequestError unless there are rows x cols of them.
    """
    import PIL.Image

    if rows < 1 or cols < 1 or len(images) != rows * cols:
        raise RequestError(
            f"{len(images)} images do not fill {rows} x {cols}.",
            f"Use {math.ceil(len(images) / max(cols, 1))} rows, or fewer columns.",
        )
    given_images = [open_image(image) for image in images]
    if resize is not None:
        given_images = [source.resize((resize, resize)) for source in given_images]
    width, height = given_images[0].size
    grid = PIL.Image.new("RGB", (cols * width, rows * height))
    for index, source in enumerate(given_images):
        grid.paste(source, (index % cols * width, index // cols * height))
    return grid
