"""DPM-Solver++(2M): a second-order multistep method in the half log signal-to-noise ratio."""

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler


@dataclass(frozen=True, eq=False)
class Before:
    """What a step leaves to the next: its x0 and its half log signal-to-noise ratio."""

    x0: Tensor
    half_log_snr: float


def dpmpp_2m(process: Process, variance: str, eta: float) -> Sampler:
    """Extrapolates x0 linearly from the last two steps to the middle of this one.

    The first step and the last, which may reach an infinite signal-to-noise ratio, use x0 as it is. Source:
    arXiv 2211.01095, algorithm 2. With an eta of 1 it solves the reverse equation with noise (section 5 and
    its appendix: SDE-DPM-Solver++(2M)), whose spread is that of the posterior; a clean end gets none.
    """
    return Sampler(process, partial(_step, eta > 0))


def _step(noisy: bool, move: Move, before: Before | None) -> tuple[Tensor, Before]:
    abar, abar_next = move.abars
    here = Before(move.prediction.x0, move.process.half_log_snr_at(move.t))
    h = move.process.half_log_snr_at(move.t_next) - here.half_log_snr
    x0 = here.x0 if before is None or move.final else extrapolated(here, before, h)
    from_x = math.sqrt((1.0 - abar_next) / (1.0 - abar))
    if not noisy:
        return from_x * move.x - (math.sqrt(abar_next) * math.expm1(-h)) * x0, here
    x_next = from_x * math.exp(-h) * move.x - (math.sqrt(abar_next) * math.expm1(-2.0 * h)) * x0
    spread = math.sqrt((1.0 - abar_next) * -math.expm1(-2.0 * h))
    return x_next + spread * move.draw() if spread > 0 else x_next, here


def extrapolated(here: Before, before: Before, h: float) -> Tensor:
    """x0 in the middle of a step of `h` that begins `here`, on the line through the last two steps' x0."""
    reach = h / (here.half_log_snr - before.half_log_snr) / 2.0
    return here.x0 + reach * (here.x0 - before.x0)
