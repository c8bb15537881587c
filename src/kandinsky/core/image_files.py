"""Files of images: which there are, how large they are, and what they hold: upright, 8 bits, colours of sRGB."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.core.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image


def decoded(image: "Image", name: str) -> "Image":
    """What every image goes through: upright, 8 bits, colours of sRGB; transparency is kept. RequestError names it."""
    found = _standard_colours(_eight_bit(_upright(image, name)))
    if found.mode == "P":
        try:
            found.convert("RGBA")
        except FAULTS as error:
            raise RequestError(f"{name} is damaged ({error}).", "Save it again with an image editor.") from error
    if found.mode in NO_COLOURS:
        raise RequestError(f"{name} has colours of the space {found.mode}.", "Save it in RGB.")
    return found


@contextmanager
def open_image_file(path: str | Path) -> "Iterator[Image]":
    """Opens an image file; RequestError when there is none, or when it cannot be read (then or inside)."""
    import PIL.Image

    try:
        with _silently(path) as file:
            if file.format in NO_IMAGES:
                raise PIL.UnidentifiedImageError(f"{file.format} is read by no library here")
            yield file
    except FileNotFoundError as error:
        raise RequestError(f"There is no image {path}.", "Check the path.") from error
    except PIL.UnidentifiedImageError as error:
        raise RequestError(f"{path} is not an image.", "PNG, JPEG, WebP, GIF, TIFF and BMP are.") from error
    except RequestError:
        raise
    except PIL.Image.DecompressionBombError as error:
        most = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise RequestError(
            f"{path} has too many pixels ({error}).", f"At most {most:.0f} million are read; make it smaller."
        ) from error
    except FAULTS as error:
        raise RequestError(f"{path} cannot be read ({error}).", "Is it a complete image file?") from error


FAULTS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, struct.error, zlib.error),
)
"""What Pillow's readers raise for damaged files."""
_OPENING = threading.Lock()


def _silently(path: str | Path) -> "Image":
    """Opens a file without Pillow's warning of many pixels: what is too much for it is an error."""
    import PIL.Image

    # The filters of warnings are of all threads.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        return PIL.Image.open(path)


NO_IMAGES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""What Pillow only recognises, or runs other programs for."""
NO_COLOURS = ("LAB",)
"""Modes that Pillow turns into no other."""
TURNED = range(5, 9)
"""Orientations with which width and height are exchanged."""


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of files that Pillow reads as images, in lower case, with the dot."""
    import PIL.Image

    PIL.Image.init()
    known = PIL.Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in PIL.Image.OPEN and kind not in NO_IMAGES)


def is_image_name(path: str | Path) -> bool:
    """Whether a file is called like an image."""
    return Path(path).suffix.lower() in image_suffixes()


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of a file as `open_image` opens it, found out without decoding it."""
    with open_image_file(path) as file:
        width, height = file.size
        # Of a TIFF Pillow turns the size itself.
        turned = file.format != "TIFF" and file.getexif().get(0x0112) in TURNED
    return (height, width) if turned else (width, height)


def _upright(image: "Image", name: str) -> "Image":
    from PIL import ImageOps

    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except FAULTS as error:
        raise RequestError(f"{name} is damaged ({error}).", "Save it again with an image editor.") from error


def _eight_bit(image: "Image") -> "Image":
    import numpy as np
    import PIL.Image

    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    # PIL's own conversion clips these to 0..255, which turns a 16-bit depth map white.
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise RequestError(
            f"An image of mode {image.mode} has negative or non-finite values.", "Scale it to 0..1 or to 0..255."
        )
    top = values.max()
    if image.mode.startswith("I;16") or top > 255:
        scale = 255 / 65535 if top <= 65535 else 255 / top
    else:
        scale = 255.0 if image.mode == "F" and top <= 1 else 1.0
    return PIL.Image.fromarray(np.round(values * scale).astype(np.uint8))


PROFILES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of images that a colour profile of each space is for."""


def _standard_colours(image: "Image") -> "Image":
    """The image in sRGB, where it brings another colour profile; a profile that cannot be used is none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        from PIL import ImageCms

        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = PROFILES.get(own.profile.xcolor_space.strip())
        bare = {"RGBA": "RGB", "P": "RGB", "PA": "RGB", "RGBX": "RGB", "LA": "L"}.get(image.mode, image.mode)
        if mode is None or mode != bare or "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        turned = ImageCms.profileToProfile(image.convert(mode), own, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if turned is None:
            return image
    except (ImportError, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return image
    turned.info.pop("transparency", None)
    if alpha is not None:
        turned.putalpha(alpha)
    return turned
