"""What every sampler is: a rule for going from x at one time to x at the next."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process

# Each rule has its own immutable state; the loop only hands it back.
State = Any

BUT_LAST = "fixed_small_but_last"
"""The variance of checkpoints whose last step adds no noise, wherever it ends."""


@dataclass(frozen=True, eq=False)
class Move:
    """One step from `x` at time `t` to `t_next` (negative: the end); `final` for the last of a trajectory.

    `prediction` is what the network said about `x`; `denoise` asks it again.
    """

    process: Process
    denoise: Denoiser
    prediction: Prediction
    x: Tensor
    t: float
    t_next: float
    rng: Noise
    final: bool

    @property
    def abars(self) -> tuple[float, float]:
        """alpha_bar at both times."""
        return self.process.alpha_bar_at(self.t), self.process.alpha_bar_at(self.t_next)

    @property
    def scales(self) -> tuple[float, float]:
        """sqrt(alpha_bar) at both times: x over it is y, the sum of x0 and sigma times noise."""
        abar, abar_next = self.abars
        return math.sqrt(abar), math.sqrt(abar_next)

    @property
    def sigmas(self) -> tuple[float, float]:
        """The noise-to-signal ratio at both times."""
        return self.process.sigma_at(self.t), self.process.sigma_at(self.t_next)

    def draw(self) -> Tensor:
        """A standard normal draw shaped like `x`, on its device and in its dtype."""
        return self.rng.normal(tuple(self.x.shape)).to(self.x.device, self.x.dtype)


@dataclass(frozen=True, eq=False)
class Sampler:
    """Steps by `rule`, which maps a step and what the one before left to it to x at the next time, and what
    it leaves itself.

    x is always the variance-preserving latent of `Process`, so any rule can stand in for any other.
    """

    process: Process
    rule: Callable[[Move, State], tuple[Tensor, State]]

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: State, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, State]:
        """Returns x at `t_next` (negative: the end), the prediction at `t`, and the next state (None at first)."""
        move = Move(self.process, denoise, denoise(x, t), x, t, t_next, rng, final)
        x_next, state = self.rule(move, state)
        return x_next, move.prediction, state


def single_step(process: Process, rule: Callable[[Move], Tensor]) -> Sampler:
    """A sampler whose steps know nothing of each other."""
    return Sampler(process, lambda move, _: (rule(move), None))
