"""The tensors of a TorchScript archive, read without running the program in it.

The archive is a zip: `data.pkl` describes a tree of modules, `data/<key>` are the bytes of storages. The unpickler
knows tensors and plain containers only.
"""

import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import torch
from torch import Tensor

from kandinsky.checkpoints.untrusted_pickle import (
    FAULTS,
    UnsoundPickleError,
    check_opcodes,
    check_tensors,
    description,
    reason_of,
)
from kandinsky.core.errors import CheckpointError

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_LOCAL_HEADER = 30
MOST_MODULES = 100_000
"""Of an archive; one whose modules hold one another has more."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is such an archive; a zip of a plain pickle has no table of constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except FAULTS:
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """All tensors of the archive's modules by their dotted names, mapped from the file; CheckpointError when it is
    damaged or holds anything that is not known to be data."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            found = description(archive)
            check_opcodes(found, None)
            found.seek(0)
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            # A private mapping: pages are read when they are needed, and nothing can write to the file.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            root = name.removesuffix("data.pkl")
            storages = {
                info.filename.removeprefix(f"{root}data/"): _record(info, mapped)
                for info in archive.infolist()
                if info.filename.startswith(f"{root}data/")
            }
            tree = _Reader(found, storages).load()
            if not isinstance(tree, _Module):
                raise CheckpointError(f"{path} holds no module.", "It is of another kind.")
            tensors = _tensors(tree)
            check_tensors(tensors)
            return tensors
    except FAULTS as error:
        raise CheckpointError(
            f"{path} cannot be read as a TorchScript archive ({reason_of(error)}).",
            "It is damaged; download it again.",
        ) from error


def _record(info: zipfile.ZipInfo, mapped: mmap.mmap) -> memoryview:
    """The bytes of a stored record."""
    start = info.header_offset
    name, extra = (int.from_bytes(mapped[start + at : start + at + 2], "little") for at in (26, 28))
    begin = start + _LOCAL_HEADER + name + extra
    return memoryview(mapped)[begin : begin + info.file_size]


class _Module:
    """A module of the archive: its attributes, none of its code."""

    state: Mapping[str, object] = MappingProxyType({})

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.state = state


def _tensors(root: _Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    waiting = [("", root)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        for name, value in module.state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    raise UnsoundPickleError("it has modules without end")


def _rebuilt(
    storage: tuple[memoryview, torch.dtype], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    flat = torch.frombuffer(storage[0], dtype=storage[1])
    # as_strided checks that every element lies in the storage.
    return flat.as_strided(size, stride, offset)


class _Reader(pickle.Unpickler):
    """Reads a description; whatever is neither data nor a module's name is refused."""

    _KNOWN: Mapping[tuple[str, str], Callable[..., object]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch.jit._pickle", "build_intlist"): list,
        ("torch.jit._pickle", "build_doublelist"): list,
        ("torch.jit._pickle", "build_boollist"): list,
        ("torch.jit._pickle", "build_tensorlist"): list,
        ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
    }

    def __init__(self, description: IO[bytes], storages: Mapping[str, memoryview]) -> None:
        super().__init__(description)
        self.storages = storages

    def find_class(self, module: str, name: str) -> object:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in self._KNOWN:
            return self._KNOWN[module, name]
        raise CheckpointError(
            f"A TorchScript archive wants {module}.{name}, which is not data.", "Do not trust this file."
        )

    def persistent_load(self, pid: Any) -> tuple[memoryview, torch.dtype]:
        _, dtype, key, *_ = pid
        return self.storages[str(key)], dtype
