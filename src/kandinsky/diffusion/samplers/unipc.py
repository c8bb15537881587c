"""UniPC: a second-order predictor whose result the next network call corrects."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler


@dataclass(frozen=True, eq=False)
class Visit:
    """A time of a trajectory, the corrected `x` there, and the prediction made from the uncorrected one."""

    t: float
    x: Tensor
    x0: Tensor


def unipc(process: Process, variance: str, eta: float) -> Sampler:
    """UniPC-2 with B2(h) = exp(h) - 1 and x0 prediction (arXiv 2302.04867, section 3).

    The first step and the last predict at first order; every step but the first starts by correcting its x with the
    network's answer there, at no further call. The state is the last two visits, newest first.
    """

    def step(move: Move, before: tuple[Visit, ...] | None) -> tuple[Tensor, tuple[Visit, ...]]:
        x0 = move.prediction.x0
        x = _corrected(process, before, move.t, x0) if before else move.x
        visits = (Visit(move.t, x, x0), *(before or ())[:1])
        return _predicted(process, visits, move.t_next, move.final), visits

    return Sampler(process, step)


def _predicted(process: Process, visits: tuple[Visit, ...], t_next: float, final: bool) -> Tensor:
    here = visits[0]
    x_next = _first_order(process, here, t_next)
    if len(visits) == 1 or final:
        return x_next
    h = _step_size(process, here.t, t_next)
    ratio = -_step_size(process, visits[1].t, here.t) / h
    weight = math.sqrt(process.alpha_bar_at(t_next)) * math.expm1(-h) * 0.5 / ratio
    return x_next - weight * (visits[1].x0 - here.x0)


def _corrected(process: Process, before: tuple[Visit, ...], t: float, x0: Tensor) -> Tensor:
    """Takes the last step again, to `t`, now with the network's answer `x0` at its end."""
    origin = before[0]
    h = _step_size(process, origin.t, t)
    scale = math.sqrt(process.alpha_bar_at(t)) * math.expm1(-h)
    x = _first_order(process, origin, t)
    if len(before) == 1:
        return x - (0.5 * scale) * (x0 - origin.x0)
    ratio = -_step_size(process, before[1].t, origin.t) / h
    old, new = _corrector_weights(h, ratio)
    difference = (before[1].x0 - origin.x0) / ratio
    return x - scale * (old * difference + new * (x0 - origin.x0))


def _first_order(process: Process, origin: Visit, t_next: float) -> Tensor:
    abar, abar_next = process.alpha_bar_at(origin.t), process.alpha_bar_at(t_next)
    decay = math.expm1(-_step_size(process, origin.t, t_next))
    return math.sqrt((1.0 - abar_next) / (1.0 - abar)) * origin.x - (math.sqrt(abar_next) * decay) * origin.x0


def _step_size(process: Process, t: float, t_next: float) -> float:
    return process.half_log_snr_at(t_next) - process.half_log_snr_at(t)


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
