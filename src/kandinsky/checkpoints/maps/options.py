"""Reads single values of a config.json, each of which may be missing, of another type, or out of range."""

from collections.abc import Mapping
from typing import Any

from kandinsky.core.errors import CheckpointError, nearest


def whole(json: Mapping[str, Any], key: str, default: int) -> int:
    """The positive whole number at `key`, `default` when the file lacks it; CheckpointError for the rest."""
    value = json.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"config.json has {key} = {value!r}, expected a positive whole number.",
            "The file is damaged or of another model.",
        )
    return value


def word(json: Mapping[str, Any], key: str, default: str, known: tuple[str, ...]) -> str:
    """The word at `key`, `default` when the file lacks it; CheckpointError when it is not one of `known`."""
    value = json.get(key, default)
    if value not in known:
        raise CheckpointError(f"config.json has {key} = {value!r}.", nearest(str(value), known))
    return str(value)
