"""What a checkpoint fixes of its diffusion: the process, how outputs are read and bound, and which times."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS, Parametrization
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.times import at_most, counted_down, leading, linspaced, respaced, tail, thinned, trailing

Spacing = Literal["leading", "linspaced", "trailing", "respaced", "counted_down"]


@dataclass(frozen=True)
class ImageNoise:
    """How an image is noised before it is changed.

    `process` None is the schedule's own. `back` None noises to the first time that is kept, a number to time
    int(T x strength) - `back`. Kept are the last int(steps x strength) times or, with `by_level`, those that
    are not above T x strength.
    """

    process: Process | None = None
    back: int | None = None
    by_level: bool = False


@dataclass(frozen=True)
class Beginning:
    """The times that are left to do on an image, which is noised by `process` to time `t`."""

    times: list[int]
    process: Process
    t: int


@dataclass(frozen=True)
class Schedule:
    """A checkpoint's diffusion settings, with one of its samplers.

    `prediction_type` is a key of `PARAMETRIZATIONS`; `constraints` are applied to each prediction in order; `variance`
    is what samplers add noise by (see `make_sampler`); `sampler` is whose settings these are, and `eta` its share of
    fresh noise where the checkpoint has its own. `offset` shifts leading times; with `open_end`, leading and linspaced
    times are those of one step more, without the last: the lowest time then counts as the end; `sections` makes the
    section string of respaced times from a count. `only` are the times that the checkpoint is made for, where it is
    made for few. `process_of(steps)` is there where the process itself has as many times as there are steps; `taken`
    gives the settings for a count then. With `noises_noise` an image that begins with noise is noised like any other,
    which draws twice. `replace_known_region` says whether inpainting puts the known region back after each step.
    """

    process: Process
    prediction_type: str = "epsilon"
    constraints: tuple[Constraint, ...] = ()
    variance: str = "fixed_small"
    sampler: str = "ddpm"
    spacing: Spacing = "leading"
    offset: int = 0
    open_end: bool = False
    sections: str = "{}"
    eta: float | None = None
    image_noise: ImageNoise = ImageNoise()
    only: tuple[int, ...] = ()
    process_of: Callable[[int], Process] | None = None
    noises_noise: bool = False
    replace_known_region: bool = True

    def taken(self, steps: int) -> "Schedule":
        """These settings for that number of steps: others only where the process has a time for each step.

        Raises RequestError for more steps than the table has times.
        """
        if self.process_of is None:
            return self
        times = leading(steps, self.process.T)
        process = self.process_of(steps).spread(self.process.T // steps)
        return replace(self, process=process, process_of=None, only=tuple(times))

    @property
    def parametrization(self) -> Parametrization:
        """How a network's output becomes a prediction."""
        return PARAMETRIZATIONS[self.prediction_type]

    def times(self, steps: int) -> list[int]:
        """The falling times of a full trajectory: `steps` of them, save where sections give what they can.

        Raises RequestError for more steps than the table has times.
        """
        table = self.process.T
        if self.only:
            return thinned(self.only, steps)
        if self.spacing == "respaced":
            return respaced(self.sections.format(steps), table)
        if self.spacing in ("counted_down", "trailing"):
            return (trailing if self.spacing == "trailing" else counted_down)(steps, table)
        more = int(self.open_end and steps < table)
        if self.spacing == "leading":
            return leading(steps + more, table, self.offset)[:steps]
        return linspaced(steps + more, table)[:steps]

    def beginning(self, steps: int, strength: float) -> Beginning:
        """The first timestep and the remaining times of an img2img trajectory; `steps` are those of a whole one.

        Raises RequestError as `times` does, and for another strength.
        """
        times, noise = self.times(steps), self.image_noise
        process = noise.process or self.process
        level = int(process.T * strength)
        kept = at_most(times, level) if noise.by_level else tail(times, strength)
        if noise.back is None:
            return Beginning(kept, process, kept[0])
        t = max(level - noise.back, 0)
        # Less than one step is asked for: one is taken, and no more noise given than it can take away.
        if len(times) * strength < 1:
            t = min(t, kept[0])
        return Beginning(kept, process, t)
