"""Checks that a config.json asks for nothing that our networks would silently do otherwise."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kandinsky.core.errors import CheckpointError, ConfigError

ConfigT = TypeVar("ConfigT")


def require(json: Mapping[str, Any], class_name: str, **values: Any) -> None:
    """Raises CheckpointError when `json` is of another class or has another value than those given.

    A key that the file leaves out is taken to have the required value: saved files hold every key, and
    weights of another network would not fit. Lists and tuples are compared by their items.
    """
    named = json.get("_class_name", class_name)
    if named != class_name:
        raise CheckpointError(
            f"config.json is of a {named}, expected a {class_name}.", "Is this the right folder?"
        )
    for key, wanted in values.items():
        found = json.get(key, wanted)
        if isinstance(found, tuple | list):
            found = list(found)
        if found != wanted:
            raise CheckpointError(
                f"config.json of a {class_name} has {key} = {found!r}, this network is made for {wanted!r}.",
                "This checkpoint is not of the Kandinsky family, or from a newer format.",
            )


def build(kind: Callable[..., ConfigT], **values: Any) -> ConfigT:
    """A network's configuration from values of a file; CheckpointError for sizes that do not go together."""
    try:
        return kind(**values)
    except ConfigError as error:
        raise CheckpointError(
            f"config.json: {error.message}", "The file is damaged or of another model."
        ) from error
