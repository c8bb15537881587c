"""Which times a sampler visits: always falling, without the end that follows the last one."""

import math
from collections.abc import Sequence

from kandinsky.core.errors import RequestError


def leading(n: int, T: int, offset: int = 0) -> list[int]:
    """Returns `n` times spaced by T // n from `offset` up, falling (arXiv 2305.08891, table 2, "leading").

    The offset shrinks where it would leave the table 0 .. T - 1. Raises RequestError unless 1 <= n <= T.
    """
    _check_count(n, T)
    stride = T // n
    highest = (n - 1) * stride
    shift = max(0, min(offset, T - 1 - highest))
    return [highest + shift - i * stride for i in range(n)]


def linspaced(n: int, T: int) -> list[int]:
    """Returns `n` times spread evenly over 0 .. T - 1, both ends kept, rounded half to even, falling.

    One time is T - 1, where pure noise lives. Raises RequestError unless 1 <= n <= T.
    """
    _check_count(n, T)
    if n == 1:
        return [T - 1]
    stride = (T - 1) / (n - 1)
    return [round(i * stride) for i in reversed(range(n))]


def trailing(n: int, T: int) -> list[int]:
    """Returns `n` times spaced by T / n down from T - 1, falling (arXiv 2305.08891, table 2, "trailing").

    Raises RequestError unless 1 <= n <= T.
    """
    _check_count(n, T)
    return [round(T - i * (T / n)) - 1 for i in range(n)]


def counted_down(n: int, T: int) -> list[int]:
    """Returns every ceil(T / n)-th time from T - 1 down, time 0 left out: `n` of them, or fewer.

    Time 0 is where the first step's noise already is the end; a lone time 0 stays. Raises RequestError unless
    1 <= n <= T.
    """
    _check_count(n, T)
    return list(range(T - 1, 0, -math.ceil(T / n))) or [0]


def thinned(times: Sequence[int], n: int) -> list[int]:
    """Returns `n` of the falling `times`, the first among them, spread evenly.

    Raises RequestError unless there are as many.
    """
    if not 1 <= n <= len(times):
        raise RequestError(
            f"{n} steps cannot be taken from the {len(times)} times that this checkpoint is made for.",
            f"Use 1 to {len(times)} steps.",
        )
    return [times[i * len(times) // n] for i in range(n)]


def respaced(spec: str, T: int) -> list[int]:
    """Returns the times of a section string such as "25", "10,5" or "ddim50", falling.

    A comma list divides 0 .. T - 1 into equal sections, lowest first, and spreads each count over its section with both
    ends kept; positions round half to even on a running sum, which is what the first releases did and differs from an
    even spread for some counts. A lone "1" is T - 1. "ddimN" is every (T // N)-th time from 1 up, which may be more or
    fewer than N. Source: the timestep respacing of arXiv 2102.09672. Raises RequestError for anything else.
    """
    text = spec.strip()
    if text.startswith("ddim"):
        count = _parse_count(text.removeprefix("ddim"), spec)
        _check_count(count, T)
        return [t for t in range(1, T + 1, T // count) if t < T][::-1] or [0]
    counts = [_parse_count(part, spec) for part in text.split(",")]
    if counts == [1]:
        return [T - 1]
    size, extra = divmod(T, len(counts))
    times: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        _check_count(count, length)
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            times.append(start + round(position))
            position += stride
        start += length
    return times[::-1]


def tail(times: Sequence[int], strength: float) -> list[int]:
    """Returns the last int(len(times) * strength) of `times`, at least one.

    They are what is left to do on an image noised to the first of them. `strength` in (0, 1]: 1 keeps all
    times. Raises RequestError outside that range.
    """
    if not 0 < strength <= 1:
        raise RequestError(f"strength {strength} is outside (0, 1].", "Use 1 to ignore the image, 0.3 to retouch it.")
    kept = max(1, int(len(times) * strength))
    return list(times[len(times) - kept :])


def at_most(times: Sequence[int], level: int) -> list[int]:
    """Returns those of the falling `times` that are not above `level`, at least the last one."""
    return [t for t in times if t <= level] or list(times[-1:])


def _check_count(n: int, T: int) -> None:
    if not 1 <= n <= T:
        raise RequestError(f"{n} steps cannot be taken from {T} times.", f"Use 1 to {T} steps.")


def _parse_count(text: str, spec: str) -> int:
    if not text.strip().isdecimal():
        raise RequestError(f"step string {spec!r} is not understood.", "Use for example '25', '10,5' or 'ddim50'.")
    return int(text)
