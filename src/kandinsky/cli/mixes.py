"""`--mix TEXT_OR_FILE:WEIGHT`, given several times, as one prompt."""

import math
from collections.abc import Sequence
from pathlib import Path

from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import FORMATS
from kandinsky.core.requests import Mix, mix

OTHER_PICTURES = (".gif", ".bmp", ".tif", ".tiff")


def parse_mix(parts: Sequence[str], folder: Path | None = None) -> Mix:
    """Reads `TEXT_OR_FILE:WEIGHT` parts, files in `folder`; with no weight at all, all count the same.

    A part that is an existing file, or is named like a picture, is a picture. Raises RequestError for a
    picture that cannot be opened, for weights on some parts only, and as `mix` does.
    """
    split = [_split(part) for part in parts]
    weights = [weight for _, weight in split if weight is not None]
    if weights and len(weights) < len(split):
        bare = next(text for text, weight in split if weight is None)
        raise RequestError(
            f"--mix {bare!r} has no weight, but others have.", "Write it as TEXT_OR_FILE:WEIGHT."
        )
    return mix([_item(text, folder or Path()) for text, _ in split], weights or None)


def _split(part: str) -> tuple[str, float | None]:
    text, colon, tail = part.rpartition(":")
    try:
        weight = float(tail) if colon else math.nan
    except ValueError:
        weight = math.nan
    return (part, None) if math.isnan(weight) else (text, weight)


def _item(text: str, folder: Path) -> str | Path:
    if not text.strip():
        raise RequestError("A part of --mix is empty.", "Write it as TEXT_OR_FILE:WEIGHT.")
    path = folder / text
    named_so = path.suffix.lower() in (*FORMATS, *OTHER_PICTURES)
    return path if named_so or _is_file(path) else text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text too long to be a file name
        return False
