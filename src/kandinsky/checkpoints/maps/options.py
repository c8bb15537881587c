"""Reads single values of a config.json, each of which may be missing, of another type, or out of range."""

import math
from collections.abc import Mapping
from typing import Any

from kandinsky.core.errors import CheckpointError, nearest

HINT = "The file is damaged or of another model."


def whole(
    json: Mapping[str, Any], key: str, default: int, *, least: int = 1, file: str = "config.json"
) -> int:
    """The whole number at `key`, at least `least`; `default` when missing, CheckpointError otherwise."""
    value = json.get(key, default)
    if not _is_whole(value, least):
        wanted = "a positive whole number" if least == 1 else f"a whole number from {least} up"
        raise CheckpointError(f"{file} has {key} = {value!r}, expected {wanted}.", HINT)
    return int(value)


def wholes(json: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """The list of positive whole numbers at `key`; `default` when missing, CheckpointError otherwise."""
    value = json.get(key, default)
    if not isinstance(value, (list, tuple)) or not value or not all(_is_whole(item, 1) for item in value):
        raise CheckpointError(
            f"config.json has {key} = {value!r}, expected a list of positive whole numbers.", HINT
        )
    return tuple(value)


def real(
    json: Mapping[str, Any], key: str, default: float, low: float, high: float, file: str = "config.json"
) -> float:
    """The number at `key`, within low to high; `default` when missing, CheckpointError otherwise."""
    value = json.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        wanted = f"a number from {low:g} up" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise CheckpointError(f"{file} has {key} = {value!r}, expected {wanted}.", HINT)
    return float(value)


def word(json: Mapping[str, Any], key: str, default: str, known: tuple[str, ...]) -> str:
    """The word at `key`, `default` when the file lacks it; CheckpointError when it is not one of `known`."""
    value = json.get(key, default)
    if value not in known:
        raise CheckpointError(f"config.json has {key} = {value!r}.", nearest(str(value), known))
    return str(value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
