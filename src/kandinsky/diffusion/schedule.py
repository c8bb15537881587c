"""What a checkpoint fixes of its diffusion: the process, how outputs are read and bound, and which times."""

from dataclasses import dataclass, field
from typing import Literal

from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.reading import READINGS, Reading
from kandinsky.diffusion.times import leading, linspaced, trailing

Spacing = Literal["leading", "linspaced", "trailing"]


@dataclass(frozen=True)
class Schedule:
    """A checkpoint's diffusion settings.

    `reading` is a row of `READINGS`; `variance` is what "ddpm" adds noise by; `sampler` is the checkpoint's
    own; `offset` shifts leading times. With `open_end`, leading and linspaced times are those of one step
    more, without the last: the lowest time then counts as the end.
    """

    process: Process
    reading: str = "epsilon"
    constraint: Constraint = field(default_factory=Constraint)
    variance: str = "fixed_small"
    sampler: str = "ddpm"
    spacing: Spacing = "leading"
    offset: int = 0
    open_end: bool = False

    @property
    def read(self) -> Reading:
        """How a network's output becomes a prediction."""
        return READINGS[self.reading]

    def times(self, steps: int) -> list[int]:
        """The `steps` falling times of a full trajectory.

        Raises RequestError for more steps than the table has times.
        """
        table = self.process.T
        if self.spacing == "trailing":
            return trailing(steps, table)
        more = int(self.open_end and steps < table)
        if self.spacing == "leading":
            return leading(steps + more, table, self.offset)[:steps]
        return linspaced(steps + more, table)[:steps]
