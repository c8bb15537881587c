"""Inpainted images with the input's own pixels where nothing was painted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from kandinsky.core.images import mask_array, to_array
from kandinsky.core.requests import Row

if TYPE_CHECKING:
    from PIL.Image import Image


def pasted_back(images: "Sequence[Image]", rows: Sequence[Row], blur: int) -> "list[Image]":
    """The images, with the pixels of their rows' input images, to the bit, where the masks are 0.

    Inputs are resized to the images where they have another size. Within `blur` pixels of what was painted both are
    blended.
    """
    found = []
    for image, row in zip(images, rows, strict=True):
        assert row.image is not None  # checked with the request
        assert row.mask is not None
        own = to_array(row.image.image, *image.size)
        painted = soft_edge(mask_array(row.mask, *image.size), blur)[..., None]
        blended = np.round(own + painted * (np.asarray(image, dtype=np.float32) - own))
        found.append(PIL.Image.fromarray(np.where(painted > 0, blended, own).astype(np.uint8)))
    return found


def soft_edge(mask: NDArray[np.float32], blur: int) -> NDArray[Any]:
    """A mask (H, W) of 0 and 1 that falls to 0 over `blur` pixels outside of its ones, which stay."""
    grown = torch.from_numpy(mask)[None]
    total = grown.clone()
    for _ in range(blur):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        total += grown
    return (total[0] / (blur + 1)).numpy()
