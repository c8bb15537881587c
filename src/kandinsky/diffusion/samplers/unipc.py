"""UniPC: a second-order predictor whose result the next network call corrects."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler


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


def unipc(process: Process, variance: str, eta: float) -> Sampler:
    """UniPC-2 with B2(h) = exp(h) - 1 and x0 prediction (arXiv 2302.04867, section 3).

    The first step and the last predict at first order; every step but the first starts by correcting its x
    with the network's answer there, at no further call.
    """

    def step(move: Move, before: Memory | None) -> tuple[Tensor, Memory]:
        here = Point(move.t, move.prediction.x0)
        x = move.x if before is None else _corrected(process, before, here)
        points = (here, *(() if before is None else before.points[:1]))
        return _predicted(process, x, points, move.t_next, move.final), Memory(x, points)

    return Sampler(process, step)


def _predicted(process: Process, x: Tensor, points: tuple[Point, ...], t_next: float, final: bool) -> Tensor:
    here = points[0]
    x_next = _first_order(process, x, here, t_next)
    if len(points) == 1 or final:
        return x_next
    h = _step_size(process, here.t, t_next)
    ratio = -_step_size(process, points[1].t, here.t) / h
    weight = math.sqrt(process.alpha_bar_at(t_next)) * math.expm1(-h) * 0.5 / ratio
    return x_next - weight * (points[1].x0 - here.x0)


def _corrected(process: Process, before: Memory, here: Point) -> Tensor:
    """Takes the last step again, now with the network's answer at its end."""
    origin = before.points[0]
    h = _step_size(process, origin.t, here.t)
    scale = math.sqrt(process.alpha_bar_at(here.t)) * math.expm1(-h)
    x = _first_order(process, before.x, origin, here.t)
    if len(before.points) == 1:
        return x - (0.5 * scale) * (here.x0 - origin.x0)
    ratio = -_step_size(process, before.points[1].t, origin.t) / h
    old, new = _corrector_weights(h, ratio)
    difference = (before.points[1].x0 - origin.x0) / ratio
    return x - scale * (old * difference + new * (here.x0 - origin.x0))


def _first_order(process: Process, x: Tensor, origin: Point, t_next: float) -> Tensor:
    abar, abar_next = process.alpha_bar_at(origin.t), process.alpha_bar_at(t_next)
    decay = math.expm1(-_step_size(process, origin.t, t_next))
    return math.sqrt((1.0 - abar_next) / (1.0 - abar)) * x - (math.sqrt(abar_next) * decay) * origin.x0


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
