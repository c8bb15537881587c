"""Reads sizes off the tensors of files that come without a configuration."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from kandinsky.core.errors import CheckpointError, ConfigError

HEAD_DIM = 64
"""The width of a head in all published networks of this family, which no tensor tells."""
HINT = "The file is damaged or of another model."

ConfigT = TypeVar("ConfigT")


def shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of the tensor `name`; CheckpointError when it is missing or has not `axes` axes."""
    if name not in tensors:
        raise CheckpointError(f"The file has no tensor {name}.", HINT)
    found = tuple(tensors[name].shape)
    if len(found) != axes:
        raise CheckpointError(f"{name} has the shape {found}, expected {axes} axes.", HINT)
    return found


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbered parts `prefix`0., `prefix`1., ... there are; CheckpointError for none or a gap."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    found = {int(match[1]) for name in names if (match := pattern.match(name))}
    if not found:
        raise CheckpointError(f"The file has no tensor whose name begins with {prefix}0.", HINT)
    if missing := set(range(max(found))) - found:
        raise CheckpointError(f"The file has no tensors of {prefix}{min(missing)}.", HINT)
    return len(found)


def sized(kind: Callable[..., ConfigT], **values: object) -> ConfigT:
    """A network's configuration from sizes of tensors; CheckpointError for sizes that do not go together."""
    try:
        return kind(**values)
    except ConfigError as error:
        raise CheckpointError(f"The tensors make no network: {error.message}", HINT) from error


def heads_of(width: int, head_dim: int = HEAD_DIM) -> int:
    """The number of heads of a transformer; CheckpointError when `head_dim` does not divide its width."""
    if width % head_dim:
        raise CheckpointError(f"Heads of width {head_dim} do not divide a width of {width}.", HINT)
    return width // head_dim
