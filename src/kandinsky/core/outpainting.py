"""Margins around an image that are to be painted: the larger canvas, and the mask that marks them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import SIDES, Picture
from kandinsky.core.validation import shown, whole_number

HINT = "Write left=64,top=32, or in Python {'left': 64, 'top': 32}."


@dataclass(frozen=True)
class Margins:
    """Pixels that an image gains at its sides."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def around(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (width, height) of the canvas around an image of a size."""
        return size[0] + self.left + self.right, size[1] + self.top + self.bottom

    def __str__(self) -> str:
        return ",".join(f"{side}={pixels}" for side, pixels in asdict(self).items() if pixels)


def read_margins(value: object) -> Margins:
    """Margins from a mapping of sides to pixels, or from a text such as `left=64,top=32`; RequestError for others."""
    if isinstance(value, Margins):
        return value
    if isinstance(value, str):
        value = _pairs(value)
    if not isinstance(value, Mapping):
        raise RequestError(f"outpaint cannot be {shown(value)}.", HINT)
    sides = [field.name for field in fields(Margins)]
    given: dict[str, int] = {}
    for side, pixels in value.items():
        if side not in sides:
            raise RequestError(f"outpaint has no side {shown(side)}.", nearest(str(side), sides))
        number = whole_number(pixels)
        if number is None or not 0 <= number <= SIDES[1]:
            raise RequestError(f"outpaint {side} is {shown(pixels)}.", f"Give 0 to {SIDES[1]} pixels.")
        given[side] = number
    if not any(given.values()):
        raise RequestError("outpaint adds nothing.", HINT)
    return Margins(**given)


def _pairs(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in text.split(","):
        side, equals, pixels = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise RequestError(f"outpaint {part.strip()!r} is no side with pixels.", HINT)
        if side in found:
            raise RequestError(f"outpaint has {side} twice.", HINT)
        digits = pixels.removesuffix("px")
        found[side] = int(digits) if digits.isascii() and digits.isdigit() else pixels
    return found


def extended(picture: Picture, margins: Margins) -> tuple[Picture, Picture]:
    """An image on the larger canvas, its edges repeated, and the mask that marks the margins."""
    import numpy as np
    import PIL.Image

    width, height = margins.around(picture.size)
    around = ((margins.top, margins.bottom), (margins.left, margins.right))
    pixels = np.pad(np.asarray(picture.image), (*around, (0, 0)), mode="edge")
    mask = PIL.Image.new("L", (width, height), 255)
    mask.paste(0, (margins.left, margins.top, width - margins.right, height - margins.bottom))
    if picture.numbers is None:
        return Picture(PIL.Image.fromarray(pixels), picture.path), Picture(mask)
    from torch.nn.functional import pad

    sides = (margins.left, margins.right, margins.top, margins.bottom)
    return Picture.of_numbers(pad(picture.numbers[None], sides, mode="replicate")[0]), Picture(mask)
