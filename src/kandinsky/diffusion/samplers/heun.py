"""Heun's second-order method on the probability-flow equation."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, refuse_eta
from kandinsky.diffusion.samplers.euler import toward_x0


@dataclass(frozen=True, eq=False)
class Heun:
    """An Euler step, repeated with the mean of the slopes at both ends (arXiv 2206.00364, algorithm 1).

    Calls the network twice per step, except for the last, whose end it knows nothing about.
    """

    process: Process

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        x_euler = toward_x0(self.process, x, prediction.x0, t, t_next)
        if final:
            return x_euler, prediction, None
        sigma, sigma_next = self.process.sigma_at(t), self.process.sigma_at(t_next)
        scale, scale_next = (
            math.sqrt(self.process.alpha_bar_at(t)),
            math.sqrt(self.process.alpha_bar_at(t_next)),
        )
        y = x / scale
        slope = (y - prediction.x0) / sigma
        slope_next = (x_euler / scale_next - denoise(x_euler, t_next).x0) / sigma_next
        y_next = y + (0.5 * (sigma_next - sigma)) * (slope + slope_next)
        return scale_next * y_next, prediction, None


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("heun", eta, 0.0)
    return Heun(process)
