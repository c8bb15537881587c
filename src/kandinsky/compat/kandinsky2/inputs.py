"""Input images and masks in the original code's conventions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, fromarray

from kandinsky.compat.originals import mask_numbers
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.images import open_image, to_array

SAMPLERS = {"p_sampler": "ddpm", "ddim_sampler": "ddim", "plms_sampler": "plms"}
SMALLEST_CHANGE = 1e-6
SIDE = 64
"""What the sides of an image made from noise are rounded up to, whatever the network could do with."""


def sampler_name(name: str) -> str:
    """Our name of a sampler; raises RequestError for a name that the original code does not know."""
    if name not in SAMPLERS:
        raise RequestError(f"There is no sampler {name!r}.", nearest(name, SAMPLERS))
    return SAMPLERS[name]


def change_of(strength: float) -> float:
    """Our strength of theirs, in which 1 keeps all of an image and 0 nothing.

    Raises RequestError outside 0 to 1. Where theirs is 1 a single step is left.
    """
    if isinstance(strength, bool) or not 0 <= strength <= 1:
        raise RequestError(f"strength {strength} is outside 0 to 1.", "Here 1 keeps all of the image.")
    return max(1 - strength, SMALLEST_CHANGE)


def inputs_of(given: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """The request fields of a call's image, mask and strength, where it has them."""
    fields: dict[str, Any] = {}
    if "pil_img" in given:
        fields["image"] = sized(given["pil_img"], width, height)
    if "img_mask" in given:
        fields["mask"] = repainted(given["img_mask"], width, height)
    if "strength" in given:
        fields["strength"] = change_of(given["strength"])
    return fields


def sized(image: Any, width: int, height: int) -> Image:
    """An image at width x height."""
    return fromarray(to_array(open_image(image), width, height))


def repainted(mask: object, width: int, height: int) -> NDArray[np.bool_]:
    """Where a mask asks for repainting, (height, width): everywhere but where it is 1 (or 255, in bytes up to 255);
    resized to the nearest value. RequestError for what is no mask."""
    numbers = mask_numbers(mask, "kept")
    rows = np.arange(height) * numbers.shape[0] // height
    columns = np.arange(width) * numbers.shape[1] // width
    keep: NDArray[np.bool_] = np.equal(numbers, 1)[rows][:, columns]
    return ~keep
