"""Families of tests: which members run always, and which with `-m slow` alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(members: Iterable[Any], *fast: Any) -> list[Any]:
    """Parameters of a test, of which only the `fast` ones run without `-m slow`.

    Those that are fast together touch every branch that the whole family touches. Tuples are the values of several
    parameters. Raises ValueError for a fast one that is no member.
    """
    family = list(members)
    if strangers := [one for one in fast if one not in family]:
        raise ValueError(f"no members: {strangers}")
    return [one if one in fast else _slow(one) for one in family]


def _slow(member: Any) -> Any:
    values = member if isinstance(member, tuple) else (member,)
    return pytest.param(*values, marks=pytest.mark.slow)
