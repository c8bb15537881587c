"""Reads the pieces of a SentencePiece `.model` file, which is one protocol-buffers message.

Only the message's wire format is read: the package's own Python description of it needs a protobuf runtime,
and the segmentation itself is done by the tokenizers library.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kandinsky.core.errors import TokenizerError

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""The kinds of piece that are not ordinary text (enum `SentencePiece.Type` of sentencepiece_model.proto)."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """A vocabulary in id order: each piece with its score and kind, and the table that normalises text."""

    pieces: tuple[tuple[str, float], ...]
    kinds: tuple[int, ...]
    charsmap: bytes

    def named(self, kind: int) -> list[str]:
        """The pieces of one kind, in id order."""
        return [piece for (piece, _), k in zip(self.pieces, self.kinds, strict=True) if k == kind]


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Reads `path`; raises TokenizerError when it cannot be read or is no SentencePiece model."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.", "Check the folder.") from error
    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    charsmap = b""
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                piece, kind = _piece(value)
                pieces.append(piece)
                kinds.append(kind)
            elif field == 3 and isinstance(value, bytes):
                charsmap = next((v for f, v in _fields(value) if f == 2 and isinstance(v, bytes)), b"")
    except (ValueError, IndexError, struct.error) as error:
        raise TokenizerError(
            f"{path} is not a SentencePiece model: {error}.", "The file is damaged; download it again."
        ) from error
    if not pieces:
        raise TokenizerError(f"{path} holds no pieces.", "The file is damaged; download it again.")
    return SentencePieceModel(tuple(pieces), tuple(kinds), charsmap)


def _piece(message: bytes) -> tuple[tuple[str, float], int]:
    text, score, kind = "", 0.0, 1
    for field, value in _fields(message):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif field == 3 and isinstance(value, int):
            kind = value
    return (text, score), kind


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message in file order: whole numbers as int, all else as the bytes it is stored in."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == _VARINT:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {position} runs past the end")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} is too long")
