"""Values before pydantic sees them, and what it says of one that cannot be, in our words."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from annotated_types import Interval
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from kandinsky.core.errors import RequestError

WRONG_TYPE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "text",
    "string_unicode": "valid text",
    "string_too_short": "a name",
}
LONGEST, FEW = 60, 8
"""Characters of a value in a message."""
INTERVAL_HINT = "Give two numbers, such as (0.1, 0.8); 0 is the clean image and 1 pure noise."
WORDS = {str: "text", Path: "a path", int: "a whole number", bool: "True or False"}
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than_equal", "finite_number")


def translated(error: ValidationError, fields: Mapping[str, FieldInfo], hints: Mapping[str, str]) -> RequestError:
    """The first error, in the branch of a union that came furthest; a message ends with the hint of its field.

    A RequestError that a validator raised is returned as it is.
    """
    errors = error.errors(include_url=False)
    same = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    causes = {id(one): one.get("ctx", {}).get("error") for one in same}
    first = max(same, key=lambda one: (len(one["loc"]), isinstance(causes[id(one)], RequestError)))
    if isinstance(cause := causes[id(first)], RequestError):
        return cause
    name, kind, value = str(first["loc"][0]), first["type"], first["input"]
    if kind in OUT_OF_RANGE:
        return RequestError(f"{name} {outside(value, fields[name])}.", hints[name])
    if value is None:
        return RequestError(f"{name} cannot be None.", hints[name])
    if kind in WRONG_TYPE:
        return RequestError(f"{name} must be {WRONG_TYPE[kind]}, not {shown(value)}.", hints[name])
    return RequestError(f"{name} cannot be {shown(value)} ({first['msg']}).", hints[name])


def outside(value: float, field: FieldInfo) -> str:
    """How a number misses the limits of a field."""
    limits = next(part for part in parts_of(field) if isinstance(part, Interval))
    given = f"{value:g}" if isinstance(value, float) else shown(value)
    if int in parts_of(field):
        return f"{given} is outside {limits.ge} to {limits.le}"
    if limits.le is None:
        return f"{given} is not {limits.ge} or more"
    low = f"above {limits.gt} and at most" if limits.ge is None else f"within {limits.ge} to"
    return f"{given} is not {low} {limits.le}"


def parts_of(field: FieldInfo) -> list[object]:
    """Everything in a field's type, limits among it."""

    def inside(annotation: object) -> Iterator[object]:
        yield annotation
        for part in get_args(annotation):
            yield from inside(part)

    return [*inside(field.annotation), *field.metadata]


def shown(value: object) -> str:
    """A value as a message names it, cut where it is long."""
    plain = isinstance(value, list) and len(value) <= FEW and all(isinstance(one, str | int | float) for one in value)
    if not plain and not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "(too long to show)"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def check_kinds(values: Mapping[str, object], kinds: Mapping[str, tuple[type, ...]]) -> None:
    """Raises RequestError for the first value, None aside, that is of no class that `kinds` names for it: nothing may
    be asked of such a value, which could be an array or raise."""
    for name, allowed in kinds.items():
        value = values[name]
        if value is None or (isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))):
            continue
        known = " or ".join(WORDS.get(kind, f"a {kind.__name__}") for kind in allowed)
        raise RequestError(f"{name} cannot be {shown(value)}.", f"Give {known}.")


def whole_number(value: object) -> int | None:
    """A whole number of Python or numpy as Python's; None for anything else."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def flag_of(text: str) -> bool | str:
    """A flag that is written as a text: True or False, or the text itself where it is neither."""
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)


def two(ends: object) -> object:
    """The ends of a guidance interval, a list or tuple, as a tuple."""
    if isinstance(ends, list | tuple):
        if len(ends) == 2 and not any(end is None for end in ends):
            return tuple(ends)
        given = [*map(shown, ends[:3]), *["..."] * (len(ends) > 3)]
        said = f"({', '.join(given)})"
    else:
        said = shown(ends)
    raise RequestError(f"guidance_interval must be two numbers, not {said}.", INTERVAL_HINT)


def ascending(ends: tuple[float, float]) -> tuple[float, float]:
    """The ends of a guidance interval; RequestError where the second is not above the first."""
    if ends[0] >= ends[1]:
        raise RequestError(
            f"guidance_interval goes from {ends[0]:g} to {ends[1]:g}, which is no interval.", INTERVAL_HINT
        )
    return ends
