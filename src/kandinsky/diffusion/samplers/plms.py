"""PLMS: pseudo linear multistep sampling."""

import math

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler

# Adams-Bashforth weights of orders 1 to 4, the newest noise first (arXiv 2202.09778, section 3.3).
WEIGHTS: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(process: Process, variance: str, eta: float) -> Sampler:
    """DDIM's step with a noise extrapolated from the last four predictions (arXiv 2202.09778, section 3.3).

    The first step looks ahead once and averages, so it calls the network twice; the times should be evenly
    spaced. The state is the tuple of the last noises, newest first, at most three.
    """
    return Sampler(process, _step)


def _step(move: Move, before: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    said = move.prediction.eps
    known = (said, *(before or ()))
    if not before and not move.final:
        ahead = move.denoise(_moved(move, said), move.t_next)
        eps = (said + ahead.eps) / 2.0
    else:
        weights = WEIGHTS[len(known) - 1]
        eps = weights[0] * known[0]
        for weight, old in zip(weights[1:], known[1:], strict=True):
            eps = eps + weight * old
    return _moved(move, eps), known[:3]


def _moved(move: Move, eps: Tensor) -> Tensor:
    abar, abar_next = move.abars
    scale = math.sqrt(abar_next / abar)
    return scale * move.x + (math.sqrt(1.0 - abar_next) - scale * math.sqrt(1.0 - abar)) * eps
