"""JSON and TOML that anyone may have written: bounded in size, depth and numbers before anything else reads them."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from math import isfinite, isnan
from pathlib import Path

LARGEST = 64 * 2**20
"""Bytes of a text; the largest that is published is a tokenizer's vocabulary, of about 17 million."""
DEEPEST = 64
"""Containers within one another."""
WIDEST = 128
"""Bits of a whole number: files state that there is no limit by one of 100 bits."""
_TOML_LARGEST = 2**20
_TOML_TEXT = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_TOML_BETWEEN = re.compile(r"[=,\[\]{}\n]")
_NARROW = 2**63
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnsoundTextError(ValueError):
    """A text is no JSON or TOML, or has values that no file of ours needs; the message is a short reason."""


def parse_json(text: bytes | str, *, finite: bool = False, largest: int = LARGEST) -> object:
    """The value of a JSON text, in UTF-8 with or without a byte order mark.

    Refused are texts of more than `largest` bytes, values nested deeper than `DEEPEST`, whole numbers wider than
    `WIDEST` bits, NaN (with `finite` infinities too), halves of surrogate pairs, and keys that are given twice with
    different values. Raises UnsoundTextError.
    """
    with _reasons(len(text), largest):
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value: object = json.loads(plain, object_pairs_hook=_unambiguous)
    _check(value, finite, "\\u" in plain)
    return value


def parse_toml(text: bytes) -> dict[str, object]:
    """The table of a TOML text of at most a mebibyte, bounded as `parse_json` has it; raises UnsoundTextError."""
    with _reasons(len(text), _TOML_LARGEST):
        plain = text.decode("utf-8-sig")
        # The reader's time grows with the square of a dotted key's parts.
        if any(part.count(".") > DEEPEST for part in _TOML_BETWEEN.split(_TOML_TEXT.sub("x", plain))):
            raise UnsoundTextError(f"it has a key of more than {DEEPEST} parts")
        table = tomllib.loads(plain)
    _check(table, True, True)
    return table


@contextmanager
def _reasons(length: int, largest: int) -> Iterator[None]:
    """Short reasons for what a reader of a text refuses, and for a text that is too long for it."""
    if length > largest:
        raise UnsoundTextError(f"it is longer than {largest} bytes")
    try:
        yield
    except RecursionError as error:
        raise UnsoundTextError(f"its values are nested deeper than {DEEPEST}") from error
    except UnicodeDecodeError as error:
        raise UnsoundTextError(f"it is no UTF-8 text (byte {error.start})") from error
    except UnsoundTextError:
        raise
    except ValueError as error:
        raise UnsoundTextError(_first_line(error)) from error


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file; UnsoundTextError when it is larger than `largest`, OSError when it cannot be
    read."""
    if not path.is_file():
        # A pipe or a device would be waited for without end.
        raise IsADirectoryError("it is no file") if path.exists() else FileNotFoundError("there is no such file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise UnsoundTextError(f"it is longer than {largest} bytes")
    return content


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: dict[str, object] = {}
        for key, value in pairs:
            if seen.setdefault(key, value) != value:
                raise UnsoundTextError(f"the key {key[:40]!r} is given twice, with different values")
    return found


def _check(value: object, finite: bool, surrogates: bool) -> None:
    """Raises UnsoundTextError for the first value that is out of bounds."""
    level: list[object] = [value]
    for _ in range(DEEPEST + 1):
        inner: list[Iterable[object]] = []
        for one in level:
            # By class alone: there may be hundreds of thousands, and dates and truths are sound.
            kind = type(one)
            if kind is int:
                if not -_NARROW < one < _NARROW and one.bit_length() > WIDEST:  # type: ignore[operator, attr-defined]
                    raise UnsoundTextError(f"it has a whole number of more than {WIDEST} bits")
            elif kind is str:
                if surrogates and _SURROGATE.search(one):  # type: ignore[call-overload]
                    raise UnsoundTextError("it has half of a surrogate pair, which is no text")
            elif kind is dict:
                inner.append(one.values())  # type: ignore[attr-defined]
                if surrogates:
                    inner.append(one.keys())  # type: ignore[attr-defined]
            elif kind is list:
                inner.append(one)  # type: ignore[arg-type]
            elif kind is float and (isnan(one) or (finite and not isfinite(one))):  # type: ignore[arg-type]
                raise UnsoundTextError("it has a number that is not finite")
        if not inner:
            return
        level = list(chain.from_iterable(inner))
    raise UnsoundTextError(f"its values are nested deeper than {DEEPEST}")


def _first_line(error: ValueError) -> str:
    return (str(error).splitlines() or [""])[0].split(";")[0][:120]
