"""A grid of images as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.files import write_atomically

GAP = 2

ImageGrid = npt.NDArray[np.uint8]


def grid(images: Tensor, columns: int) -> ImageGrid:
    """Images (N, 3, H, W) in [-1, 1], clamped, row by row in so many columns: uint8 (H', W', 3)."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    cells = torch.full((channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 255, dtype=torch.uint8)
    values = (images.detach().float().cpu().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    for index, image in enumerate(values):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        cells[:, top : top + height, left : left + width] = image
    array: ImageGrid = cells.permute(1, 2, 0).contiguous().numpy()
    return array


def images_to_grid(images: Sequence[Image.Image], columns: int) -> ImageGrid:
    """Images of one size, row by row; see `grid`."""
    values = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return grid(torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1, columns)


def write_grid(path: Path, grid: ImageGrid) -> Path:
    """Writes a grid as PNG, whole or not at all; OutputError when that is impossible."""
    return write_atomically(path, lambda file: Image.fromarray(grid).save(file, "PNG"))
