"""What callers pass as images, masks, hints, prompts and embeddings, as our requests want it."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture, read_image, read_mask, resized, tensor_image, to_array

CLOSE_TO_ONE = 1e-3
T = TypeVar("T")


def texts(value: object, name: str = "prompt") -> list[str]:
    """One text or several, as a list; raises RequestError for anything else, and for none."""
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not found or not all(isinstance(text, str) for text in found):
        raise RequestError(f"{name} is {str(value)[:60]!r}.", "Give a text, or a list of texts.")
    return found


def whole(value: object) -> Any:
    """A whole number that was given as 25.0 or in a tensor; anything else is itself."""
    found = _number(value)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _number(value: object) -> object:
    return value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0 else value


def counted(value: object, name: str) -> int:
    """A number of things of which there is at least one; RequestError for anything else."""
    found = whole(value)
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 1:
        raise RequestError(f"{name} is {value!r}.", "Give a whole number from 1 up.")
    return int(found)


def scaled(value: object, name: str = "guidance_scale") -> float:
    """A number that is finite; RequestError for anything else."""
    found = _number(value)
    if isinstance(found, bool) or not isinstance(found, Real) or not math.isfinite(found):
        raise RequestError(f"{name} is {value!r}.", "Give a number, such as 4.")
    return float(found)


def paired(values: Sequence[T], count: int, name: str, copies: int = 1) -> list[T]:
    """`values` for `count` prompts, one for all or one for each, each `copies` times next to each other.

    Raises RequestError for any other number of values.
    """
    if len(values) not in (1, count):
        raise RequestError(
            f"{len(values)} values of {name} were given for {count} prompts.", "Give one for all, or one per prompt."
        )
    return [value for value in (values if len(values) == count else [*values] * count) for _ in range(copies)]


def embeddings(value: object, name: str) -> Tensor:
    """Embeddings (B, D) from a tensor, an array, or a list of them; raises RequestError for anything else."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not parts or not all(isinstance(part, Tensor | np.ndarray) for part in parts):
        raise RequestError(f"{name} is a {type(value).__name__}.", "Give the tensor that the prior pipeline returns.")
    rows = [torch.as_tensor(part) for part in parts]
    return torch.cat([row if row.ndim == 2 else row[None] for row in rows])


def split(value: object) -> list[Any]:
    """Single images: of a batch (B, ...) each, of a list each, of anything else itself."""
    if isinstance(value, list | tuple):
        return [one for item in value for one in split(item)]
    return list(value) if isinstance(value, Tensor | np.ndarray) and value.ndim == 4 else [value]


def images(value: object, unit: bool | None = None) -> list[Picture]:
    """Images from PIL images, arrays (H, W, 3) of 0..255 or 0..1, tensors (3, H, W), batches or lists of them.

    Tensors are as in `kandinsky.core.images.tensor_image`. Raises RequestError for anything else.
    """
    singles = split(value)
    return [tensor_image(one, unit) if isinstance(one, Tensor) else read_image(_bytes(one)) for one in singles]


def _bytes(image: object) -> Any:
    """An array of whole numbers in a floating type is an image of 0..255; all else is left as it is."""
    if not (isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.size and image.min() >= 0):
        return image
    if image.max() <= 1 + CLOSE_TO_ONE:
        return image.clip(0, 1)
    return np.round(image).astype(np.uint8) if image.max() <= 255 else image


def region(image: object, mask: object, width: int, height: int) -> tuple[list[Picture], list[Picture]]:
    """Images and their masks for inpainting, from the same kinds of input; white (1) is repainted.

    Tensors of images are in -1..1. One mask serves all images, one image all masks. Where sizes differ, both are
    resized to width x height. Raises RequestError for anything else.
    """
    found, masks = images(image, unit=False), [read_mask(_grey(single)) for single in split(mask)]
    count = max(len(found), len(masks))
    pairs = zip(paired(found, count, "image"), paired(masks, count, "mask_image"), strict=True)
    sized = [_of_one_size(*pair, width, height) for pair in pairs]
    return [source for source, _ in sized], [mask for _, mask in sized]


def _grey(mask: object) -> Any:
    """A mask as an image or an array (H, W)."""
    found = mask.detach().float().cpu().numpy() if isinstance(mask, Tensor) else mask
    return np.squeeze(_bytes(found)) if isinstance(found, np.ndarray) else found


def _of_one_size(image: Picture, mask: Picture, width: int, height: int) -> tuple[Picture, Picture]:
    from PIL.Image import Resampling, fromarray

    if mask.size == image.size:
        return image, mask
    if image.numbers is not None:
        sized = Picture.of_numbers(resized(image.numbers, width, height))
    else:
        sized = Picture(fromarray(to_array(image.image, width, height)))
    return sized, Picture(mask.image.resize((width, height), Resampling.LANCZOS))
