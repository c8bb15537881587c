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
T = TypeVar("T")


def texts(value: str | Sequence[str], name: str = "prompt") -> list[str]:
    """One text or several, as a list; raises RequestError for anything else, and for none."""
    found = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not found or not all(isinstance(text, str) for text in found):
        raise RequestError(f"{name} is {str(value)[:60]!r}.", "Give a text, or a list of texts.")
    return found


def counted(value: object, name: str) -> int:
    """A number of things of which there is at least one; RequestError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise RequestError(f"{name} is {value!r}.", "Give a whole number from 1 up.")
    return int(value)


def scaled(value: object, name: str = "guidance_scale") -> float:
    """A number that is finite; RequestError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise RequestError(f"{name} is {value!r}.", "Give a number, such as 4.")
    return float(value)


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
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.size and image.max() > 1:
        return np.round(image).clip(0, 255).astype(np.uint8)
    return image


def _numbers(image: Tensor, width: int, height: int, multiple: int) -> Tensor:
    """An image (3, H, W) of numbers at width x height, its right and bottom edges repeated to the
    multiple."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise RequestError(
            f"A tensor of shape {tuple(image.shape)} is not an image.", "Images are (3, H, W) or (B, 3, H, W)."
        )
    source = image.detach().float().cpu().expand(3, -1, -1)[None]
    if source.shape[-2:] != (height, width):
        source = F.interpolate(source, size=(height, width), mode="bicubic", antialias=True)
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

    Tensors keep their numbers: an image's are in -1..1, or in 0..1 when none is negative and it is not
    said that they are `centred`; a hint's are in 0..1. The result's pixels are in -1..1, of a hint in
    0..1. Raises RequestError for anything else.
    """
    singles = split(value)
    tensors = [single for single in singles if isinstance(single, Tensor)]
    if tensors and len(tensors) != len(singles):
        raise RequestError("Tensors are mixed with other images.", "Give one kind.")
    if not tensors:
        return Images([read_image(_bytes(single)) for single in singles], None)
    sized = [_numbers(tensor, width, height, multiple) for tensor in tensors]
    for tensor in sized:
        if hint and (float(tensor.min()) < -CLOSE_TO_ZERO or float(tensor.max()) > 1 + CLOSE_TO_ZERO):
            raise RequestError(
                f"The hint's numbers go from {float(tensor.min()):.3g} to {float(tensor.max()):.3g}.",
                "Scale it to 0..1.",
            )
    unit = [tensor if hint or not _is_unit(tensor, centred) else tensor * 2 - 1 for tensor in sized]
    shown = [tensor if hint else tensor * 0.5 + 0.5 for tensor in unit]
    eight_bit = [read_image(one.clamp(0, 1).permute(1, 2, 0).numpy()[:height, :width]) for one in shown]
    return Images(eight_bit, unit)


def _is_unit(tensor: Tensor, centred: bool) -> bool:
    return not centred and float(tensor.min()) >= 0


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
