"""Sample sheets: a grid of pictures as one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.files import write_atomically

GAP = 2


def grid(pictures: Tensor, columns: int) -> npt.NDArray[np.uint8]:
    """Pictures (N, 3, H, W) in [-1, 1], clamped, row by row into one (rows, columns) sheet: uint8 (H', W',
    3).
    """
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.full(
        (channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 255, dtype=torch.uint8
    )
    values = (pictures.detach().float().cpu().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    for index, picture in enumerate(values):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = picture
    array: npt.NDArray[np.uint8] = sheet.permute(1, 2, 0).contiguous().numpy()
    return array


def pictures_to_sheet(pictures: Sequence[Image.Image], columns: int) -> npt.NDArray[np.uint8]:
    """Pictures of one size, row by row, as one sheet; see `grid`."""
    values = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return grid(torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1, columns)


def write_sheet(path: Path, sheet: npt.NDArray[np.uint8]) -> Path:
    """Writes a sheet as PNG, whole or not at all; OutputError when that is impossible."""
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    return write_atomically(path, buffer.getvalue())
