"""Tensors that are computed once and kept in safetensors files of a cache folder."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from kandinsky.checkpoints.weights import read_header, read_tensor_file, write_tensor_file
from kandinsky.core.errors import CheckpointError


def read_kept(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The tensors and the header of a file; None where it is missing or damaged."""
    try:
        return read_tensor_file(path), read_header(path)
    except CheckpointError:
        return None


def keep(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Writes a file whole or not at all, and removes what a killed run left of it; OutputError."""
    for left in path.parent.glob(f".{path.name}.*part"):
        left.unlink()
    write_tensor_file(path, tensors, header or {})
