"""Euler's method on the probability-flow equation."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, refuse_eta


@dataclass(frozen=True, eq=False)
class Euler:
    """One Euler step of dy/dsigma = (y - x0) / sigma in the scaled space y = x / sqrt(alpha_bar).

    Source: arXiv 2206.00364, algorithm 1 without the correction. The step is the straight line from y to
    x0, written so that it also holds at sigma = 0. It equals DDIM without noise as long as eps and x0 agree.
    """

    process: Process

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        return toward_x0(self.process, x, prediction.x0, t, t_next), prediction, None


def toward_x0(process: Process, x: Tensor, x0: Tensor, t: float, t_next: float) -> Tensor:
    """Returns x at `t_next` on the straight line, in the scaled space, from `x` at `t` to `x0` at sigma 0."""
    ratio = process.sigma_at(t_next) / process.sigma_at(t)
    scale, scale_next = math.sqrt(process.alpha_bar_at(t)), math.sqrt(process.alpha_bar_at(t_next))
    return (scale_next * ratio / scale) * x + (scale_next * (1.0 - ratio)) * x0


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("euler", eta, 0.0)
    return Euler(process)
