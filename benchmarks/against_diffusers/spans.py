"""Which part of a request a workload looks at, read off the moments that a side marks on its way.

Sides mark the end of every step, by stage; a moment is a time, and the operations counted until then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Span = Literal["whole", "prior", "step", "decode"]
"""All of a request; until the prior's last step; one step of the decoder, on average; from the decoder's last
step to the images."""
Mark = Callable[[str], None]
"""Told by a side at the end of each step, with its stage ("prior" or "decoder")."""


@dataclass(frozen=True)
class Moment:
    """What had passed at the end of a step: `seconds` on a clock, floating-point `operations` so far."""

    stage: str
    seconds: float
    operations: float


def measured(span: Span, moments: Sequence[Moment]) -> tuple[float, float]:
    """Seconds and operations of a span; `moments` begin with "begin" and end with "end".

    A step is the time from one step's end to the next one's, so that what is done once is not in it. Raises
    ValueError where the request had no such span.
    """
    ends = {stage: [m for m in moments if m.stage == stage] for stage in ("prior", "decoder")}
    match span:
        case "whole":
            first, last, parts = moments[0], moments[-1], 1
        case "prior":
            first, last, parts = moments[0], ends["prior"][-1] if ends["prior"] else moments[0], 1
        case "step":
            steps = ends["decoder"]
            first, last, parts = (steps[0], steps[-1], len(steps) - 1) if steps else (moments[0],) * 2 + (0,)
        case "decode":
            first, last, parts = ends["decoder"][-1] if ends["decoder"] else moments[-1], moments[-1], 1
    if parts < 1 or last is first:
        raise ValueError(f"The request marked no {span!r}: {[m.stage for m in moments]}.")
    return (last.seconds - first.seconds) / parts, (last.operations - first.operations) / parts
