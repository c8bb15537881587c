"""Images that clients send: decoded in another process."""

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kandinsky.core.foreign_metadata import Foreign
from kandinsky.core.metadata import Metadata
from kandinsky.server.decoding import BusyError, Decoders, Frame, RefusedError
from kandinsky.server.errors import ApiError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_FILE = 50 * 2**20
LONGEST_ADDRESS = 20_971_520
"""Characters of a data URL; the API's own limit."""
_DECODERS = Decoders()
_THREADS = ThreadPoolExecutor(4, "uploads")
"""Threads of their own: those who wait for a decoder hold up nothing else."""


async def received(data: bytes, param: str) -> "Image":
    """As `opened`, for the loop."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, opened, data, param)


def opened(data: bytes, param: str) -> "Image":
    """An image of a client, decoded elsewhere: RGBA where it has transparency, else RGB.

    Raises ApiError that names `param` for what is no PNG, JPEG or WebP of a sane size.
    """
    from PIL import Image

    header, pixels = _asked("image", data, param)
    return Image.frombytes(header["mode"], tuple(header["size"]), pixels)


def metadata_in(data: bytes, param: str) -> Metadata | Foreign | None:
    """What the file of an image says of how it was made; None where it says nothing. Raises ApiError as `opened`."""
    found = _asked("metadata", data, param)[0]
    if found["metadata"] is not None:
        return Metadata(**found["metadata"])
    return None if found["foreign"] is None else Foreign(**found["foreign"])


def _asked(work: str, data: bytes, param: str) -> Frame:
    if len(data) > LARGEST_FILE:
        raise ApiError(413, f"{param} is larger than {LARGEST_FILE // 2**20} MB.", param, "image_too_large")
    try:
        return _DECODERS.ask({"work": work}, data)
    except RefusedError as error:
        code = "image_size" if error.kind == "size" else "invalid_image"
        raise ApiError(400, f"{param} is not taken: {error.message}.", param, code) from None
    except BusyError as error:
        message = "More images are being read than can be at once."
        raise ApiError(503, message, param, "busy", {"retry-after": "5"}) from error


def of_alpha(image: "Image") -> "Image":
    """A mask as the OpenAI API has it, transparent where something is to be drawn, as one that is white there."""
    from PIL import ImageOps

    if image.mode != "RGBA":
        raise ApiError(400, "mask has no transparency, so that it marks nothing.", "mask", "invalid_image")
    return ImageOps.invert(image.getchannel("A"))


def data_url(address: object, param: str) -> bytes:
    """The bytes of a data URL. Other addresses are refused: the server fetches nothing for its clients."""
    if not isinstance(address, str) or len(address) > LONGEST_ADDRESS:
        raise ApiError(400, f"{param} is no address of up to {LONGEST_ADDRESS} characters.", param, "invalid_value")
    head, comma, body = address.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise ApiError(400, f"{param} is no data URL in base64; others are not fetched.", param, "unsupported_url")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ApiError(400, f"{param} is no valid base64.", param, "invalid_value") from error
