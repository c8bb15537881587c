"""How the values of a request are checked: one validator for each kind of value."""

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import BeforeValidator, InstanceOf

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.prompts import Embedding, Mix, as_prompt

Texts: TypeAlias = str | tuple[str | None, ...] | None
Numbers: TypeAlias = float | tuple[float | None, ...] | None
Pictures: TypeAlias = InstanceOf[Picture] | tuple[InstanceOf[Picture], ...] | None
OnePrompt: TypeAlias = str | InstanceOf[Mix] | InstanceOf[Embedding]


def shown(value: object) -> str:
    """A value as an error message names it."""
    return f"{value!r}" if isinstance(value, (str, int, float, bool)) else f"a {type(value).__name__}"


def several(value: object) -> bool:
    """Whether a value is a list of values."""
    return isinstance(value, (list, tuple))


def each(check: Callable[[object], object]) -> Callable[[object], object]:
    """The same check for one value, or for every one of a list."""

    def checked(value: object) -> object:
        return tuple(map(check, value)) if several(value) else check(value)  # type: ignore[call-overload]

    return checked


def whole(field: str, low: int, high: int, hint: str) -> Callable[[object], object]:
    """Checks for a whole number from `low` to `high`, or None."""

    def check(value: object) -> object:
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError as error:
            raise RequestError(f"{field} must be a whole number, not {shown(value)}.", hint) from error
        if not low <= number <= high:
            raise RequestError(f"{field} {number} is outside {low} to {high}.", hint)
        return number

    return check


def real(
    field: str, fits: str, low: float, high: float, hint: str, *, above: bool = False
) -> Callable[[object], object]:
    """Checks for a finite number from `low`, which is excluded with `above`, to `high`, or None.

    `fits` is how a message says that range.
    """

    def check(value: object) -> object:
        if value is None:
            return None
        try:
            if isinstance(value, (bool, str, bytes)):
                raise TypeError
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise RequestError(f"{field} must be a number, not {shown(value)}.", hint) from error
        if not (math.isfinite(number) and low <= number <= high) or (above and number == low):
            raise RequestError(f"{field} {number:g} is not {fits}.", hint)
        return number

    return check


def whole_number(field: str, low: int, high: int, hint: str) -> BeforeValidator:
    """The validator of one whole number."""
    return BeforeValidator(whole(field, low, high, hint))


def real_number(
    field: str, fits: str, low: float, high: float, hint: str, *, above: bool = False
) -> BeforeValidator:
    """The validator of one number."""
    return BeforeValidator(real(field, fits, low, high, hint, above=above))


def texts(field: str) -> BeforeValidator:
    """The validator of one text, or one per prompt."""

    def check(value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise RequestError(
                f"{field} must be text, not {shown(value)}.", "Give one text, or one per prompt."
            )
        return value

    return BeforeValidator(each(check))


def pictures(read: Any) -> BeforeValidator:
    """The validator of one picture, or one per prompt."""

    def check(value: object) -> object:
        if value is None:
            return None
        return tuple(read(item) for item in value) if several(value) else read(value)  # type: ignore[attr-defined]

    return BeforeValidator(check)


def _interval(field: str) -> Callable[[object], object]:
    hint = "Give two, such as (0.1, 0.8); 0 is the clean picture and 1 pure noise."
    end = real(field, "within 0 to 1", 0, 1, hint)

    def check(value: object) -> object:
        if value is None:
            return None
        ends: tuple[object, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if len(ends) != 2 or None in ends:
            raise RequestError(f"{field} must be two numbers, not {shown(value)}.", hint)
        low, high = (float(end(number)) for number in ends)  # type: ignore[arg-type]
        if low >= high:
            raise RequestError(f"{field} goes from {low:g} to {high:g}, which is no interval.", hint)
        return low, high

    return check


def interval(field: str) -> BeforeValidator:
    """The validator of two numbers within 0 to 1, the lower one first."""
    return BeforeValidator(_interval(field))


def _prompts(value: object) -> object:
    if not several(value):
        return as_prompt(value)
    if not value:
        raise RequestError("The list of prompts is empty.", "Give at least one prompt.")
    return tuple(as_prompt(item) for item in value)  # type: ignore[attr-defined]


def _sampler(value: object) -> object:
    if value is None or (isinstance(value, str) and value):
        return value
    raise RequestError(f"sampler must be a name, not {shown(value)}.", "Give one such as 'ddim'.")


prompts = BeforeValidator(_prompts)
"""The validator of one prompt, or a list of them."""
sampler = BeforeValidator(_sampler)
"""The validator of a sampler's name."""
