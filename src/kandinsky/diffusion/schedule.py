"""What a checkpoint fixes of its diffusion: the process, how outputs are read and bound, and which times."""

from dataclasses import dataclass
from typing import Literal

from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.reading import READINGS, Reading
from kandinsky.diffusion.times import leading, linspaced, trailing

Spacing = Literal["leading", "linspaced", "trailing"]


@dataclass(frozen=True)
class Schedule:
    """A checkpoint's diffusion settings.

    `reading` is a row of `READINGS`; `variance` is what "ddpm" adds noise by; `sampler` is the checkpoint's own;
    `offset` shifts leading times.
    """

    process: Process
    reading: str = "epsilon"
    constraint: Constraint = Constraint()
    variance: str = "fixed_small"
    sampler: str = "ddpm"
    spacing: Spacing = "leading"
    offset: int = 0

    @property
    def read(self) -> Reading:
        """How a network's output becomes a prediction."""
        return READINGS[self.reading]

    def times(self, steps: int) -> list[int]:
        """The `steps` falling times of a full trajectory; raises RequestError for more steps than the table has."""
        if self.spacing == "leading":
            return leading(steps, self.process.T, self.offset)
        return (
            linspaced(steps, self.process.T)
            if self.spacing == "linspaced"
            else trailing(steps, self.process.T)
        )
