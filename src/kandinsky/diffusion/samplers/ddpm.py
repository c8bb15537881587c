"""Ancestral sampling: from the posterior, or from the prediction noised afresh."""

import math

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import BUT_LAST, Move, Sampler, single_step

VARIANCES = ("fixed_small", "learned_range", BUT_LAST)

# The posterior variance before a clean end is 0, and its logarithm is taken.
SMALLEST_VARIANCE = 1e-20


def ddpm(process: Process, variance: str, eta: float) -> Sampler:
    """x_next ~ q(x_next | x_t, x0) (arXiv 2006.11239, eq. 6 and 7), any two times apart.

    variance "fixed_small" is the posterior's own; "learned_range" goes from there to beta on a log scale by
    the network's var_frac (arXiv 2102.09672, eq. 15), but not before a clean end, where the posterior has no
    spread and all of that noise would stay in the image. Noise is drawn at every time above 0, with
    `BUT_LAST` in all steps but the last. Raises RequestError for another variance.
    """
    if variance not in VARIANCES:
        raise RequestError(f"unknown variance {variance!r}.", nearest(variance, VARIANCES))

    def step(move: Move) -> Tensor:
        abar, abar_next = move.abars
        beta = process.beta_between(move.t, move.t_next)
        from_x0 = math.sqrt(abar_next) * beta / (1.0 - abar)
        from_x = math.sqrt(1.0 - beta) * (1.0 - abar_next) / (1.0 - abar)
        mean = from_x0 * move.prediction.x0 + from_x * move.x
        if move.t <= 0 or (move.final and variance == BUT_LAST):
            return mean
        noise = move.draw()
        smallest = max((1.0 - abar_next) / (1.0 - abar) * beta, SMALLEST_VARIANCE)
        if variance != "learned_range" or abar_next >= 1.0:
            return mean + math.sqrt(smallest) * noise
        return mean + _learned(smallest, beta, move.prediction) * noise

    return single_step(process, step)


def _learned(smallest: float, beta: float, prediction: Prediction) -> Tensor:
    if prediction.var_frac is None:
        raise CheckpointError(
            "variance 'learned_range' was asked for, but the network has no variance channels.",
            "Use variance 'fixed_small'.",
        )
    low, high = math.log(smallest), math.log(beta)
    return torch.exp(0.5 * (low + prediction.var_frac * (high - low)))


def renoise(process: Process, variance: str, eta: float) -> Sampler:
    """x0 of every step, noised afresh to the next time; the last x0 is the result.

    For networks that were distilled to predict in a few steps (arXiv 2303.01469, algorithm 1); others give
    ever blurrier images the fewer steps there are.
    """

    def step(move: Move) -> Tensor:
        x0 = move.prediction.x0
        return x0 if move.final else process.add_noise(x0, move.draw(), move.t_next)

    return single_step(process, step)
