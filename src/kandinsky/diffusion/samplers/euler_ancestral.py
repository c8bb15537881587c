"""Euler's method with fresh noise at each step."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, check_eta, draw


@dataclass(frozen=True, eq=False)
class EulerAncestral:
    """An Euler step that goes below sigma_next and comes back up with noise.

    The spread is split as sigma_next^2 = sigma_up^2 + sigma_down^2 with sigma_up the posterior deviation
    times `eta` in [0, 1] (arXiv 2006.11239, eq. 7 in the scaled space of arXiv 2206.00364). Nothing is drawn
    for a clean end.
    """

    process: Process
    eta: float = 1.0

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        sigma, sigma_next = self.process.sigma_at(t), self.process.sigma_at(t_next)
        scale, scale_next = (
            math.sqrt(self.process.alpha_bar_at(t)),
            math.sqrt(self.process.alpha_bar_at(t_next)),
        )
        sigma_up = self.eta * sigma_next * math.sqrt(max(1.0 - (sigma_next / sigma) ** 2, 0.0))
        ratio = math.sqrt(sigma_next**2 - sigma_up**2) / sigma
        x_next = (scale_next * ratio / scale) * x + (scale_next * (1.0 - ratio)) * prediction.x0
        if sigma_up > 0:
            x_next = x_next + (scale_next * sigma_up) * draw(rng, x)
        return x_next, prediction, None


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; `eta` is 1 unless given. Raises RequestError for an eta outside [0, 1]."""
    return EulerAncestral(process, check_eta(1.0 if eta is None else eta))
