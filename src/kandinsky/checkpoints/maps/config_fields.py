"""Reads configurations: single values of a config.json, or sizes off tensors that come without one.

Each value may be missing or null, which means its default, of another type, or out of range.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard, TypeVar

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.core.errors import CheckpointError, ConfigError, nearest
from kandinsky.core.validation import LONGEST

HINT = "The file is damaged or of another model."
HEAD_DIM = 64
"""The width of a head in all published networks of this family; it does not follow from tensors."""
LARGEST = 2**24
MOST_LAYERS = 1000
MOST_LEVELS = 64
"""Sizes of a network, its layers and its levels are at most these; published ones have 250,112, 80 and 4."""
Field = tuple[str, int | tuple[int, ...]]
"""A key of a config.json, and what its absence means; 0 is refused, so that the key must be there."""
Table = Mapping[str, Field]
"""Fields of a network's configuration, each with its key."""

ConfigT = TypeVar("ConfigT")


def whole(json: Json, key: str, default: int, *, least: int = 1, file: str = "config.json") -> int:
    """The whole number at `key`, at least `least`; `default` when missing, CheckpointError otherwise."""
    value = _given(json, key, default)
    if not _is_whole(value, least):
        wanted = "a positive whole number" if least == 1 else f"a whole number from {least} up"
        raise CheckpointError(f"{file} has {key} = {_said(json, key, default)}, expected {wanted}.", HINT)
    _check_most(value, key, file)
    return value


def _check_most(value: int, key: str, file: str) -> None:
    """Raises CheckpointError for a number that would have networks built without end."""
    most = MOST_LAYERS if "layer" in key else LARGEST
    if value > most:
        raise CheckpointError(f"{file} has {key} = {value}, expected at most {most}.", HINT)


def _said(json: Json, key: str, default: object) -> str:
    """A value as a message names it: as it is written, cut where it is long."""
    text = repr(json.get(key, default))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def wholes(json: Json, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """The list of positive whole numbers at `key`; `default` when missing, CheckpointError otherwise."""
    value = _given(json, key, default)
    if not isinstance(value, (list, tuple)) or not value or not all(_is_whole(item, 1) for item in value):
        wanted = "a list of positive whole numbers"
        raise CheckpointError(f"config.json has {key} = {_said(json, key, default)}, expected {wanted}.", HINT)
    if len(value) > MOST_LEVELS:
        raise CheckpointError(f"config.json has {len(value)} numbers of {key}, expected at most {MOST_LEVELS}.", HINT)
    for item in value:
        _check_most(item, key, "config.json")
    return tuple(value)


def real(json: Json, key: str, default: float, low: float, high: float, file: str = "config.json") -> float:
    """The number at `key`, within low to high; `default` when missing, CheckpointError otherwise."""
    value = _given(json, key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or math.isinf(value):
        wanted = f"a number from {low:g} up" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise CheckpointError(f"{file} has {key} = {_said(json, key, default)}, expected {wanted}.", HINT)
    return float(value)


def word(json: Json, key: str, default: str, known: tuple[str, ...]) -> str:
    """The word at `key`, `default` when the file lacks it; CheckpointError when it is not one of `known`."""
    value = _given(json, key, default)
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(
            f"config.json has {key} = {_said(json, key, default)}.", nearest(str(value)[:LONGEST], known)
        )
    return str(value)


def _given(json: Json, key: str, default: object) -> object:
    """The value at `key`; a key that is missing or null means the default."""
    return default if json.get(key) is None else json[key]


def _is_whole(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def read_sizes(json: Json, fields: Table) -> dict[str, int | tuple[int, ...]]:
    """The positive whole numbers, or lists of these, of a configuration's `fields`; CheckpointError."""
    return {
        name: wholes(json, key, default) if isinstance(default, tuple) else whole(json, key, default)
        for name, (key, default) in fields.items()
    }


def write_sizes(config: object, fields: Table) -> dict[str, object]:
    """The values of a configuration's `fields` by the keys of a config.json."""
    values = {key: getattr(config, name) for name, (key, _) in fields.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def require(json: Json, class_name: str, **values: object) -> None:
    """Raises CheckpointError when `json` is of another class or has another value than those given; a missing key
    passes."""
    named = _given(json, "_class_name", class_name)
    if named != class_name:
        raise CheckpointError(f"config.json is of a {named}, expected a {class_name}.", "Is this the right folder?")
    for key, wanted in values.items():
        found = _given(json, key, wanted)
        if isinstance(found, tuple | list):
            found = list(found)
        if found != wanted:
            raise CheckpointError(
                f"config.json of a {class_name} has {key} = {found!r}, this network is made for {wanted!r}.",
                "This checkpoint is not of the Kandinsky family, or from a newer format.",
            )


def build(kind: Callable[..., ConfigT], where: str = "config.json", /, **values: object) -> ConfigT:
    """A network's configuration from values of a file; CheckpointError for sizes that do not go together."""
    try:
        return kind(**values)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error.message}", HINT) from error


def sized(kind: Callable[..., ConfigT], **values: object) -> ConfigT:
    """A network's configuration from sizes of tensors; CheckpointError for sizes that do not go together."""
    return build(kind, "The tensors make no network", **values)


def shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of the tensor `name`; CheckpointError when it is missing or has not `axes` axes."""
    if name not in tensors:
        raise CheckpointError(f"The file has no tensor {name}.", HINT)
    found = tuple(tensors[name].shape)
    if len(found) != axes:
        raise CheckpointError(f"{name} has the shape {found}, expected {axes} axes.", HINT)
    return found


def count(names: Iterable[str], prefix: str) -> int:
    """The number of numbered parts `prefix`0., `prefix`1., ...; CheckpointError for none or a gap."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.")
    found = {int(match[1]) for name in names if (match := pattern.match(name))}
    if not found:
        raise CheckpointError(f"The file has no tensor whose name begins with {prefix}0.", HINT)
    # Not by a range up to the largest: any number can stand in a name.
    gap = next((number for number in range(len(found)) if number not in found), None)
    if gap is not None:
        raise CheckpointError(f"The file has no tensors of {prefix}{gap}.", HINT)
    return len(found)


def heads_of(width: int, head_dim: int = HEAD_DIM) -> int:
    """The number of heads of a transformer; CheckpointError when `head_dim` does not divide its width."""
    if width % head_dim:
        raise CheckpointError(f"Heads of width {head_dim} do not divide a width of {width}.", HINT)
    return width // head_dim
