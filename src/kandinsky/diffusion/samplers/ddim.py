"""Implicit sampling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import BUT_LAST, Sampler, check_eta, draw


@dataclass(frozen=True, eq=False)
class DDIM:
    """Keeps the predicted noise and shrinks it (arXiv 2010.02502, eq. 12 and 16).

    `eta` in [0, 1]: 0 draws nothing and gives the same picture each time, 1 has the spread of ancestral
    sampling. With `noisy_end` off the last step draws nothing, and leaves out what it would have added; how
    much noise is kept is then rounded as in the code that does so.
    """

    process: Process
    eta: float = 0.0
    noisy_end: bool = True

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        abar, abar_next = self.process.alpha_bar_at(t), self.process.alpha_bar_at(t_next)
        spread, kept = (self._shares if self.noisy_end else self._single_shares)(abar, abar_next)
        x_next = math.sqrt(abar_next) * prediction.x0 + kept * prediction.eps
        if self.eta > 0 and (self.noisy_end or not final):
            x_next = x_next + spread * draw(rng, x)
        return x_next, prediction, None

    def _shares(self, abar: float, abar_next: float) -> tuple[float, float]:
        """How much fresh noise is added, and how much of the predicted noise is kept."""
        variance = self.eta**2 * (1.0 - abar_next) / (1.0 - abar) * (1.0 - abar / abar_next)
        # Rounding can make what is left for the kept noise a hair negative when eta is 1.
        return math.sqrt(variance), math.sqrt(max(1.0 - abar_next - variance, 0.0))

    def _single_shares(self, abar: float, abar_next: float) -> tuple[float, float]:
        """The same in torch's single precision.

        Next to pure noise a full eta leaves a difference of two numbers near 1: what is kept is their
        rounding, torch's own square root included, and published pictures have it.
        """
        now, then = torch.tensor([abar, abar_next], dtype=torch.float32)
        spread = (self.eta**2 * (1 - now / then) * (1 - then) / (1 - now)).sqrt()
        return float(spread), float((1 - then - spread**2).clamp(min=0).sqrt())


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; `eta` is 0 unless given. Raises RequestError for an eta outside [0, 1]."""
    return DDIM(process, check_eta(0.0 if eta is None else eta), variance != BUT_LAST)
