"""What callers pass as images, masks, hints, prompts and embeddings, as our requests want it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture, read_image, read_mask, round_up, to_array

CLOSE_TO_ZERO = 1e-6
CLOSE_TO_ONE = 1e-3
T = TypeVar("T")


def texts(value: object, name: str = "prompt") -> list[str]:
    """One text or several, as a list; raises RequestError for anything else, and for none."""
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not found or not all(isinstance(text, str) for text in found):
        raise RequestError(f"{name} is {str(value)[:60]!r}.", "Give a text, or a list of texts.")
    return found


def number(value: object) -> object:
    """A number out of a tensor or an array of one; anything else is itself."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        return value.item()
    return value


def whole(value: object) -> Any:
    """A whole number that was given as 25.0 or in a tensor; anything else is itself."""
    found = number(value)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def counted(value: object, name: str) -> int:
    """A number of things of which there is at least one; RequestError for anything else."""
    found = whole(value)
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 1:
        raise RequestError(f"{name} is {value!r}.", "Give a whole number from 1 up.")
    return int(found)


def scaled(value: object, name: str = "guidance_scale") -> float:
    """A number that is finite; RequestError for anything else."""
    found = number(value)
    if isinstance(found, bool) or not isinstance(found, Real) or not math.isfinite(found):
        raise RequestError(f"{name} is {value!r}.", "Give a number, such as 4.")
    return float(found)


def paired(values: list[T], count: int, name: str) -> list[T]:
    """`values` for `count` prompts: one for all or one for each; raises RequestError for any other number."""
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise RequestError(
            f"{len(values)} values of {name} were given for {count} prompts.", "Give one for all, or one per prompt."
        )
    return values


def repeated(values: Sequence[T], times: int) -> list[T]:
    """Each value `times` times, its copies next to each other."""
    return [value for value in values for _ in range(times)]


def embeddings(value: object, name: str) -> Tensor:
    """Embeddings (B, D) from a tensor, an array, or a list of them; raises RequestError for anything else."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not parts or not all(isinstance(part, Tensor | np.ndarray) for part in parts):
        raise RequestError(f"{name} is a {type(value).__name__}.", "Give the tensor that the prior pipeline returns.")
    rows = [torch.as_tensor(part) for part in parts]
    return torch.cat([row if row.ndim == 2 else row[None] for row in rows])


def spread(value: object, rows: int, copies: int) -> list[Any]:
    """Images of prompts as images of `rows` rows, `copies` next to each other for each prompt; one
    serves all.

    Raises RequestError for any other number of images.
    """
    return repeated(paired(split(value), rows // copies, "image"), copies)


def split(value: object) -> list[Any]:
    """Single images: of a batch (B, ...) each, of a list each, of anything else itself."""
    if isinstance(value, list | tuple):
        return [one for item in value for one in split(item)]
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 4:
        return list(value)
    return [value]


def _bytes(image: object) -> Any:
    """An array of whole numbers in a floating type is an image of 0..255; all else is left as it is."""
    if not (isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.size and image.min() >= 0):
        return image
    if image.max() <= 1 + CLOSE_TO_ONE:
        return image.clip(0, 1)
    return np.round(image).astype(np.uint8) if image.max() <= 255 else image


def _numbers(image: Tensor, size: tuple[int, int, int], *, hint: bool, centred: bool) -> Tensor:
    """An image (3, H, W) of numbers at width x height, its right and bottom edges repeated to the multiple: in
    -1..1, or a hint in 0..1.

    Whole numbers are in 0..255, an image's others in -1..1, or in 0..1 where none is negative and it is not
    `centred`. Raises RequestError for others.
    """
    width, height, multiple = size
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise RequestError(
            f"A tensor of shape {tuple(image.shape)} is not an image.", "Images are (3, H, W) or (B, 3, H, W)."
        )
    whole = not (image.is_floating_point() or image.dtype == torch.bool)
    source = image.detach().float().cpu().expand(3, -1, -1)[None]
    source = source / 255 if whole else source
    unit = hint or whole or (image.dtype == torch.bool) or (not centred and float(source.min()) >= 0)
    low, high = (0 if unit else -1), 1
    if not (float(source.min()) >= low - CLOSE_TO_ZERO and float(source.max()) <= high + CLOSE_TO_ZERO):
        numbers = source * (255 if whole else 1)
        raise RequestError(
            f"{'The hint' if hint else 'The image'}'s numbers go from {float(numbers.min()):.3g} to "
            f"{float(numbers.max()):.3g}.",
            "Whole numbers are in 0..255." if whole else "Scale it to 0..1." if hint else "Scale it to -1..1.",
        )
    source = source * 2 - 1 if unit and not hint else source
    if source.shape[-2:] != (height, width):
        source = F.interpolate(source, size=(height, width), mode="bicubic", antialias=True).clamp(0 if hint else -1, 1)
    margin = (0, round_up(width, multiple) - width, 0, round_up(height, multiple) - height)
    return F.pad(source, margin, mode="replicate")[0]


@dataclass(frozen=True, eq=False)
class Images:
    """Input images, one per prompt: `images` for the request, and `pixels` where they came as numbers."""

    images: list[Picture]
    pixels: list[Tensor] | None


def images(
    value: object, width: int, height: int, multiple: int, *, hint: bool = False, centred: bool = False
) -> Images:
    """Images from PIL images, arrays (H, W, 3) of 0..255 or 0..1, tensors (3, H, W), batches or lists of
    them.

    Tensors keep their numbers; see `_numbers` for their ranges. The result's pixels are in -1..1, of a hint in
    0..1. Raises RequestError for anything else.
    """
    singles = split(value)
    tensors = [single for single in singles if isinstance(single, Tensor)]
    if tensors and len(tensors) != len(singles):
        raise RequestError("Tensors are mixed with other images.", "Give one kind.")
    if not tensors:
        return Images([read_image(_bytes(single)) for single in singles], None)
    sized = [_numbers(tensor, (width, height, multiple), hint=hint, centred=centred) for tensor in tensors]
    shown = [tensor if hint else tensor * 0.5 + 0.5 for tensor in sized]
    eight_bit = [read_image(one.clamp(0, 1).permute(1, 2, 0).numpy()[:height, :width]) for one in shown]
    return Images(eight_bit, sized)


def region(image: Any, mask: Any, width: int, height: int, multiple: int) -> tuple[Images, list[Picture]]:
    """Images and their masks for inpainting, from the same kinds of input; white (1) is repainted.

    Tensors of images are in -1..1. One mask serves all images, one image all masks. Where sizes
    differ, both are resized to width x height. Raises RequestError for anything else.
    """
    found = images(image, width, height, multiple, centred=True)
    read = [read_mask(_grey(single)) for single in split(mask)]
    count = max(len(found.images), len(read))
    pixels = None if found.pixels is None else paired(found.pixels, count, "image")
    pairs = zip(paired(found.images, count, "image"), paired(read, count, "mask_image"), strict=True)
    sized = [_of_one_size(*pair, width, height) for pair in pairs]
    return Images([source for source, _ in sized], pixels), [mask for _, mask in sized]


def _grey(mask: object) -> Any:
    """A mask as an image or an array (H, W)."""
    if isinstance(mask, Tensor):
        mask = mask.detach().float().cpu().numpy()
    return np.squeeze(_bytes(mask)) if isinstance(mask, np.ndarray) else mask


def _of_one_size(image: Picture, mask: Picture, width: int, height: int) -> tuple[Picture, Picture]:
    from PIL.Image import Resampling, fromarray

    if mask.size == image.size:
        return image, mask
    sized = Picture(fromarray(to_array(image.image, width, height)))
    return sized, Picture(mask.image.resize((width, height), Resampling.LANCZOS))
