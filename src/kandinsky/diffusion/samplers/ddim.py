"""Implicit sampling."""

import math

import torch
from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import BUT_LAST, Move, Sampler, single_step


def ddim(process: Process, variance: str, eta: float) -> Sampler:
    """Keeps the predicted noise and shrinks it (arXiv 2010.02502, eq. 12 and 16).

    `eta` in [0, 1]: 0 draws nothing and gives the same image each time, 1 has the spread of ancestral
    sampling. By the variance `BUT_LAST` the last step draws nothing, and leaves out what it would have added;
    how much noise is kept is then rounded as in the code that does so.
    """
    noisy_end = variance != BUT_LAST
    shares = _shares if noisy_end else _single_shares

    def step(move: Move) -> Tensor:
        abar, abar_next = move.abars
        spread, kept = shares(eta, abar, abar_next)
        x_next = math.sqrt(abar_next) * move.prediction.x0 + kept * move.prediction.eps
        return x_next + spread * move.draw() if eta > 0 and (noisy_end or not move.final) else x_next

    return single_step(process, step)


def _shares(eta: float, abar: float, abar_next: float) -> tuple[float, float]:
    """How much fresh noise is added, and how much of the predicted noise is kept."""
    variance = eta**2 * (1.0 - abar_next) / (1.0 - abar) * (1.0 - abar / abar_next)
    # Rounding can make what is left for the kept noise a hair negative when eta is 1.
    return math.sqrt(variance), math.sqrt(max(1.0 - abar_next - variance, 0.0))


def _single_shares(eta: float, abar: float, abar_next: float) -> tuple[float, float]:
    """The same in torch's single precision.

    Next to pure noise a full eta leaves a difference of two numbers near 1: what is kept is their rounding,
    torch's own square root included, and published images have it.
    """
    now, then = torch.tensor([abar, abar_next], dtype=torch.float32)
    spread = (eta**2 * (1 - now / then) * (1 - then) / (1 - now)).sqrt()
    return float(spread), float((1 - then - spread**2).clamp(min=0).sqrt())
