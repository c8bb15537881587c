"""`--xy`: one request with every pair of two fields' values."""

import csv
import itertools
from typing import Any

from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.requests import Request, about, file_fields
from kandinsky.core.validation import flag_of

MOST = 400
"""Images of one table."""


def table(request: Request, x: str, y: str) -> list[Request]:
    """The requests, row by row: `x` has the values of the columns, `y` those of the rows. Raises RequestError."""
    (x_name, columns), (y_name, rows) = axis(x), axis(y)
    if x_name == y_name:
        raise RequestError(f"--xy has {x_name} twice.", "Give two fields.")
    if len(columns) * len(rows) > MOST:
        raise RequestError(f"--xy asks for {len(columns) * len(rows)} images.", f"At most {MOST} go on a sheet.")
    pairs = itertools.product(rows, columns)
    return [request.replaced(**{y_name: row, x_name: column}) for row, column in pairs]


def heads(text: str) -> tuple[str, ...]:
    """What stands at the rows or columns of an axis."""
    name, values = axis(text)
    return tuple(f"{name} {value}" for value in values)


def axis(text: str) -> tuple[str, list[Any]]:
    """A field and its values from `steps=4,8,16`; a value with commas stands in quotes. Raises RequestError."""
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    known = set(about()) - set(file_fields()) - {"count", "guidance_interval", "outpaint"}
    if not equals:
        raise RequestError(f"--xy {text!r} is no list of values.", "Write FIELD=A,B,C, such as steps=4,8,16.")
    if name not in known:
        raise RequestError(f"--xy has no field {name!r}.", nearest(name, known))
    kind = about()[name].type
    found = [value.strip() for value in next(csv.reader([values], skipinitialspace=True), []) if value.strip()]
    try:
        read = {int: int, float: float, bool: flag_of}.get(kind, str)  # type: ignore[call-overload]
        return name, [read(value) for value in found]
    except ValueError as error:
        raise RequestError(f"--xy {text!r} has a value that is no number.", "Write such as steps=4,8,16.") from error
