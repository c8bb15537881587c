"""Tables of a configuration: immutable, checked, and refusing keys that nobody reads."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from kandinsky.core.errors import ConfigError, nearest

T = TypeVar("T")


class Table(BaseModel):
    """A table of the file: immutable, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ConfigError(f"there is no setting {key!r}.", nearest(str(key), cls.model_fields))
        return values


def network_config(kind: type[T], values: Mapping[str, Any], name: str) -> T:
    """Makes a network's frozen configuration from a table; ConfigError for unknown or wrong keys."""
    known = TypeAdapter(kind)
    fields = list(getattr(kind, "__dataclass_fields__", {}))
    for key in values:
        if key not in fields:
            raise ConfigError(f"networks.{name}: there is no setting {key!r}.", nearest(key, fields))
    try:
        return known.validate_python(dict(values))
    except ValidationError as error:
        raise _config_error(error, f"networks.{name}") from error


def validated(kind: type[T], values: Any, where: str) -> T:
    """Validates `values` as a table of `kind`; ConfigError names the place of the first mistake."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise _config_error(error, where) from error


def _config_error(error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    place = ".".join([where] * bool(where) + [str(part) for part in first["loc"]])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        # Tables inside tables raise through several validators; each adds its own place.
        return ConfigError(f"{place}: {cause.message}" if place else cause.message, cause.hint)
    value = first.get("input")
    shown = "" if first["type"] == "missing" else f" (got {value!r})"
    return ConfigError(f"{place}: {first['msg'].lower()}{shown}.", "Correct this setting.")
