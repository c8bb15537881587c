"""Worlds with known answers: Gaussian data whose ideal denoiser is a formula; a cheap, crooked network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process


@dataclass(frozen=True)
class Gaussian:
    """x0 ~ N(mean, deviation^2) seen through a process."""

    process: Process
    mean: float = 0.7
    deviation: float = 0.4

    def spread(self, t: float) -> float:
        """The standard deviation of x_t."""
        abar = self.process.alpha_bar_at(t)
        return math.sqrt(abar * self.deviation**2 + 1.0 - abar)

    def denoise(self, x: Tensor, t: float) -> Prediction:
        """E[x0 | x_t], and the noise that goes with it."""
        abar = self.process.alpha_bar_at(t)
        signal = math.sqrt(abar)
        x0 = self.mean + signal * self.deviation**2 / self.spread(t) ** 2 * (x - signal * self.mean)
        return Prediction(x0, (x - signal * x0) / math.sqrt(1.0 - abar))

    def flow(self, x: Tensor, t: float, t_next: float) -> Tensor:
        """The exact end of the probability flow: the standardised value is carried along."""
        start, end = (math.sqrt(self.process.alpha_bar_at(s)) for s in (t, t_next))
        return end * self.mean + (x - start * self.mean) * (self.spread(t_next) / self.spread(t))


def crooked_eps(x: Tensor, t: float, process: Process) -> Tensor:
    """A noise prediction near the ideal one for unit data, bent enough to tell samplers apart."""
    ideal = math.sqrt(1.0 - process.alpha_bar_at(t)) * x
    return 0.9 * ideal + 0.1 * torch.tanh(2.0 * x + math.cos(t / 100.0))
