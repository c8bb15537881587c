"""Hint images: which belongs to which image, and their pixels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.edges import edge_map
from kandinsky.core.errors import DataError
from kandinsky.training.config.run import Fit
from kandinsky.training.data.decoded_cache import Pixels, decoded, size_of
from kandinsky.training.data.folder import Folder
from kandinsky.training.data.listing import list_folder

TOLERANCE = 0.02
"""How far the proportions of a hint may be from those of its image."""


def with_hints(folder: Folder, root: Path) -> Folder:
    """The folder with the images of another one as hints: those of the same name, whatever the ending.

    Raises DataError for an image without one.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {str(root)!r}.", "Give the folder that holds the hint images.")
    found: Mapping[str, Path] = {
        file.relative_to(root).with_suffix("").as_posix(): file.resolve() for file in list_folder(root).images
    }
    records = []
    for record in folder.records:
        name = Path(record.file_name).with_suffix("").as_posix()
        if name not in found:
            raise DataError(
                f"The image {record.file_name!r} has no hint in {str(root)!r}.",
                f"Expected {name}.png or another ending.",
            )
        records.append(replace(record, hint=str(found[name])))
    return replace(folder, records=tuple(records))


def decoded_hints(folder: Folder, size: int | tuple[int, int], cache: Path, fit: Fit) -> Pixels | None:
    """The hints of all records as `decoded` gives images; None where no record has one.

    Raises DataError where only some have one, for one that is missing or no image, and for one of other
    proportions than its image, which would be cut elsewhere.
    """
    if not any(record.hint for record in folder.records):
        return None
    for record in folder.records:
        if not record.hint:
            raise DataError(f"The image {record.file_name!r} has no hint.", "Give one to each, or to none.")
        (wide, tall), (across, down) = (size_of(folder.root / name) for name in (record.file_name, record.hint))
        ratio = across * tall / (down * wide)
        if abs(ratio - 1) > TOLERANCE:
            raise DataError(
                f"The hint {record.hint!r} has other proportions than its image {record.file_name!r}.",
                "Both are cut in the same way: make them alike.",
            )
    return decoded(folder, size, cache, fit, hints=True)


def edge_hints(pixels: Tensor) -> Tensor:
    """The edges of images (B, 3, H, W) in [-1, 1] as hints (B, 3, H, W) in [0, 1], on the CPU."""
    rows = ((pixels.cpu() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = torch.from_numpy(np.stack([edge_map(row) for row in rows]))
    return (found.float() / 255)[:, None].expand(-1, 3, -1, -1)
