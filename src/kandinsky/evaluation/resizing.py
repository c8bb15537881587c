"""Images at the size of the Inception network, in the two ways that published numbers use.

Sources: Parmar, Zhang and Zhu 2022 (clean-fid, arXiv 2104.11222) for "clean"; TensorFlow 1's
`resize_bilinear`, which the network of Heusel 2017 holds, for "tensorflow".
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Resize: TypeAlias = Literal["clean", "tensorflow"]


def resized(image: "Image", size: int, how: Resize) -> Tensor:
    """An RGB image as float32 (3, size, size), 0 to 255.

    "clean": Pillow's bicubic filter with its antialiasing, channel by channel in floating point, clipped.
    "tensorflow": bilinear between the four nearest pixels, corners at corner pixels' origins, no antialiasing.
    """
    pixels = np.asarray(image.convert("RGB"))
    if how == "clean":
        return _clean(pixels, size)
    return _tensorflow(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float(), size)


def _clean(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", size: int) -> Tensor:
    from PIL.Image import Resampling, fromarray

    channels = [
        np.asarray(fromarray(pixels[..., i].astype(np.float32), mode="F").resize((size, size), Resampling.BICUBIC))
        for i in range(3)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)


def _tensorflow(pixels: Tensor, size: int) -> Tensor:
    """Source coordinate = target coordinate x (source side / target side), without half-pixel centres."""
    for dim in (1, 2):
        side = pixels.shape[dim]
        place = torch.arange(size, dtype=torch.float32) * (side / size)
        low = place.floor().long().clamp_max(side - 1)
        high = (low + 1).clamp_max(side - 1)
        share = (place - low).view(-1, *([1] * (2 - dim)))
        near, far = pixels.index_select(dim, low), pixels.index_select(dim, high)
        pixels = near + (far - near) * share
    return pixels
