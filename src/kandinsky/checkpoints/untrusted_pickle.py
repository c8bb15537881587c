"""Pickles of tensors, of which nothing is ever run and which cannot make a process wait or grow.

Their opcodes are read before they are unpickled: a name that no tensor needs, a memo of billions of places, or a
compressed archive end it there.
"""

import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import IO

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError

LARGEST = 64 * 2**20
"""Bytes of a description of tensors; that of ten thousand takes about two million."""
WIDEST = 128
"""Bits of a number; the one that begins an old file has 77."""
MOST_RECORDS = 200_000
DEEPEST = 8
"""Containers within one another that may hold tensors."""
FAULTS = (
    UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a damaged pickle or archive raises."""
_PLAIN = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("collections", "defaultdict"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.storage", "UntypedStorage"),
        ("_codecs", "encode"),
    }
)
_PICKLES_OF_OLD_FILES = 5
"""A number, a version, facts about the machine, the content, and the keys of its storages."""


class UnsoundPickleError(UnpicklingError):
    """A pickle is refused; the message is a short reason."""


def reason_of(error: BaseException) -> str:
    """What was wrong with a pickle, in words of ours: torch's advise to read the file unsafely."""
    if isinstance(error, UnsoundPickleError):
        return str(error)
    return "it is not a pickle of tensors" if isinstance(error, UnpicklingError) else type(error).__name__


def read_pickle(path: Path) -> object:
    """Reads a pickle of tensors and plain containers; nothing in it is executed. CheckpointError when it is damaged or
    holds anything else."""
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            with zipfile.ZipFile(path) as archive:
                check_opcodes(description(archive))
        else:
            with path.open("rb") as file:
                for _ in range(_PICKLES_OF_OLD_FILES):
                    check_opcodes(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickles of odd protocols, which fail anyway
            # The format of before 2020 is no zip file and cannot be mapped.
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        check_tensors(content)
    except FAULTS as error:
        if "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects, not only tensors; reading them could run code.",
                "Convert it to safetensors where you trust it.",
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason_of(error)}).",
            "It is damaged or no weight file; download it again.",
        ) from error
    return content


def description(archive: zipfile.ZipFile) -> BytesIO:
    """The pickle in an archive of tensors; UnpicklingError for one that is compressed, or holds records twice."""
    records = archive.infolist()
    names = {record.filename for record in records}
    if len(records) > MOST_RECORDS or len(names) < len(records):
        raise UnsoundPickleError("it has too many records, or two of one name")
    # The programs of TorchScript are compressed, and not read.
    data = [record for record in records if "/code/" not in record.filename]
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in data):
        raise UnsoundPickleError("a record of it is compressed")
    (main,) = (record for record in records if record.filename.rpartition("/")[2] == "data.pkl")
    if main.file_size > LARGEST:
        raise UnsoundPickleError("its description is too long")
    return BytesIO(archive.read(main))


def is_plain(module: str, name: str) -> bool:
    """Whether a name in a pickle is of tensors and plain containers."""
    return (module, name) in _PLAIN or (module == "torch" and (name.endswith("Storage") or name in _DTYPES))


def check_opcodes(file: IO[bytes], known: Callable[[str, str], bool] | None = is_plain) -> None:
    """Reads the opcodes of one pickle; UnpicklingError for one that makes a process grow, and for a name that is not
    `known`. Names on the stack are not seen: torch's unpickler has none, others check each themselves."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file), start=1):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise UnsoundPickleError("it has a memo of too many places")
        if isinstance(argument, int) and argument.bit_length() > WIDEST and name != "FRAME":
            raise UnsoundPickleError(f"it has a number of more than {WIDEST} bits")
        if name in ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"):
            raise UnsoundPickleError(f"it has the opcode {name}")
        if name in ("GLOBAL", "INST"):
            module, _, what = str(argument).partition(" ")
            if known is not None and not known(module, what):
                raise UnsoundPickleError(f"GLOBAL {module[:40]}.{what[:40]}")


_DTYPES = frozenset(name for name in vars(torch) if isinstance(getattr(torch, name), torch.dtype))


def check_tensors(content: object, depth: int = 0) -> None:
    """Raises UnpicklingError for a tensor that claims more numbers than are stored: copied, it would take them."""
    match content:
        case Tensor():
            stored = content.is_cpu and content.layout == torch.strided and not content.is_quantized
            if not stored or content.numel() * content.element_size() > content.untyped_storage().nbytes():
                raise UnsoundPickleError("a tensor is larger than its numbers")
        case Mapping() if depth < DEEPEST:
            for value in content.values():
                check_tensors(value, depth + 1)
        case list() | tuple() if depth < DEEPEST:
            for value in content:
                check_tensors(value, depth + 1)
