"""The header of a safetensors file, checked whole before a tensor is read.

Format: 8 bytes of length, a JSON object of tensors (`dtype`, `shape`, `data_offsets`) and of texts (`__metadata__`),
then the numbers, without a gap (https://huggingface.co/docs/safetensors).
"""

import math
import re
from pathlib import Path

from kandinsky.core.errors import CheckpointError
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json

LARGEST = 16 * 2**20
"""Bytes of a header; ten thousand tensors take about one million."""
MOST_AXES = 8
LONGEST_NAME = 1024
METADATA = "__metadata__"
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
_KEYS = {"dtype", "shape", "data_offsets"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_header(path: Path) -> dict[str, str]:
    """Returns the texts in a file's header; CheckpointError in plain words for a header that does not fit the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _length(path, file.read(8), size)
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).", "Check the file.") from error
    try:
        header = parse_json(raw, largest=LARGEST)
        if not isinstance(header, dict):
            raise UnsoundTextError("it is not an object")
        needed = _tensors({name: entry for name, entry in header.items() if name != METADATA})
        texts = _texts(header.get(METADATA, {}))
    except UnsoundTextError as error:
        raise CheckpointError(f"{path} has a damaged header: {error}.", "Download it again.") from error
    if needed > size - 8 - length:
        raise CheckpointError(
            f"{path} has {size} bytes where its header needs {needed + 8 + length}.",
            "It was cut off; download it again.",
        )
    if needed < size - 8 - length:
        raise CheckpointError(
            f"{path} is damaged: {size - 8 - length - needed} bytes at its end belong to no tensor.",
            "Download it again.",
        )
    return texts


def _length(path: Path, start: bytes, size: int) -> int:
    if len(start) < 8:
        raise CheckpointError(f"{path} has only {size} bytes.", "It was cut off; download it again.")
    length = int.from_bytes(start, "little")
    if length > size - 8:
        if start.isascii() and start.decode().isprintable():
            hint = "It is a text file" + (", a Git LFS pointer: run git lfs pull." if b"version " in start else ".")
            raise CheckpointError(f"{path} begins with the text {start.decode()!r}, not with weights.", hint)
        raise CheckpointError(f"{path} announces a header of {length} bytes in a file of {size}.", "Download it again.")
    if length > LARGEST:
        raise CheckpointError(f"{path} announces a header of {length} bytes.", f"At most {LARGEST} are read.")
    return length


def _tensors(entries: dict[str, object]) -> int:
    """How many bytes of numbers the tensors take; UnsoundTextError for entries that contradict themselves or others."""
    spans = []
    for name, entry in entries.items():
        if not name or len(name) > LONGEST_NAME or _UNPRINTABLE.search(name):
            raise UnsoundTextError(f"a tensor is called {name[:40]!r}")
        if not isinstance(entry, dict) or entry.keys() != _KEYS:
            raise UnsoundTextError(f"{name[:80]!r} has not a dtype, a shape and two offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not (type(dtype) is str and type(shape) is list and type(offsets) is list) or [*map(type, offsets)] != [
            int,
            int,
        ]:
            raise UnsoundTextError(f"{name[:80]!r} has not a dtype, a shape and two offsets")
        begin, end = offsets
        spans.append((begin, end))
        if dtype not in _BITS:
            raise UnsoundTextError(f"{name[:80]!r} has the unknown dtype {dtype[:20]!r}")
        if len(shape) > MOST_AXES or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
            raise UnsoundTextError(f"{name[:80]!r} has the shape {str(shape)[:60]}")
        bits = math.prod(shape) * _BITS[dtype]
        if end - begin != bits // 8:
            raise UnsoundTextError(f"{name[:80]!r} has {end - begin} bytes where its shape needs {bits // 8}")
    last = 0
    for begin, end in sorted(spans):
        if begin != last:
            raise UnsoundTextError(f"the numbers of a tensor begin at byte {begin}, those before it end at {last}")
        last = end
    return last


def _texts(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UnsoundTextError(f"its {METADATA} are no texts")
    return found
