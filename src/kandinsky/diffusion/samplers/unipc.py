"""UniPC: a second-order predictor whose result the next network call corrects."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, refuse_eta


@dataclass(frozen=True, eq=False)
class Point:
    """A visited time and what the network said there."""

    t: float
    x0: Tensor


@dataclass(frozen=True, eq=False)
class Memory:
    """The corrected `x` the last step started from, and the last two visited points, newest first."""

    x: Tensor
    points: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class UniPC:
    """UniPC-2 with B2(h) = exp(h) - 1 and x0 prediction (arXiv 2302.04867, section 3).

    The first step and the last predict at first order; every step but the first starts by correcting its x
    with the network's answer there, at no further call.
    """

    process: Process

    def init(self, x: Tensor) -> Memory | None:
        return None

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: float,
        t_next: float,
        state: Memory | None,
        rng: Noise,
        final: bool,
    ) -> tuple[Tensor, Prediction, Memory]:
        prediction = denoise(x, t)
        here = Point(t, prediction.x0)
        if state is not None:
            x = self._correct(state, here)
        points = (here, *(state.points[:1] if state is not None else ()))
        return self._predict(x, points, t_next, final), prediction, Memory(x, points)

    def _predict(self, x: Tensor, points: tuple[Point, ...], t_next: float, final: bool) -> Tensor:
        here = points[0]
        x_next = self._first_order(x, here, t_next)
        if len(points) == 1 or final:
            return x_next
        h = self._step_size(here.t, t_next)
        ratio = -self._step_size(points[1].t, here.t) / h
        weight = math.sqrt(self.process.alpha_bar_at(t_next)) * math.expm1(-h) * 0.5 / ratio
        return x_next - weight * (points[1].x0 - here.x0)

    def _correct(self, state: Memory, here: Point) -> Tensor:
        """Takes the last step again, now with the network's answer at its end."""
        origin = state.points[0]
        h = self._step_size(origin.t, here.t)
        scale = math.sqrt(self.process.alpha_bar_at(here.t)) * math.expm1(-h)
        x = self._first_order(state.x, origin, here.t)
        if len(state.points) == 1:
            return x - (0.5 * scale) * (here.x0 - origin.x0)
        ratio = -self._step_size(state.points[1].t, origin.t) / h
        old, new = _corrector_weights(h, ratio)
        difference = (state.points[1].x0 - origin.x0) / ratio
        return x - scale * (old * difference + new * (here.x0 - origin.x0))

    def _first_order(self, x: Tensor, origin: Point, t_next: float) -> Tensor:
        abar, abar_next = self.process.alpha_bar_at(origin.t), self.process.alpha_bar_at(t_next)
        decay = math.expm1(-self._step_size(origin.t, t_next))
        return math.sqrt((1.0 - abar_next) / (1.0 - abar)) * x - (math.sqrt(abar_next) * decay) * origin.x0

    def _step_size(self, t: float, t_next: float) -> float:
        return self.process.half_log_snr_at(t_next) - self.process.half_log_snr_at(t)


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Returns the weights of the older point, at `ratio` < 0 steps from the origin, and of the new one, at 1.

    They solve the 2 x 2 order conditions of arXiv 2302.04867, section 3, for a step of `h` > 0.
    """
    b_h = math.expm1(-h)
    phi_2 = b_h / -h - 1.0
    phi_3 = phi_2 / -h - 0.5
    first, second = phi_2 / b_h, 2.0 * phi_3 / b_h
    old = (first - second) / (1.0 - ratio)
    return old, first - old


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("unipc", eta, 0.0)
    return UniPC(process)
