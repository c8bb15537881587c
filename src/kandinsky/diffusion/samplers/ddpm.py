"""Ancestral sampling from the posterior."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import BUT_LAST, Sampler, draw, refuse_eta

VARIANCES = ("fixed_small", "learned_range", BUT_LAST)

# The posterior variance before a clean end is 0, and its logarithm is taken.
SMALLEST_VARIANCE = 1e-20


@dataclass(frozen=True, eq=False)
class DDPM:
    """x_next ~ q(x_next | x_t, x0) (arXiv 2006.11239, eq. 6 and 7), any two times apart.

    variance "fixed_small" is the posterior's own; "learned_range" goes from there to beta on a log scale by
    the network's var_frac (arXiv 2102.09672, eq. 15), but not before a clean end, where the posterior has no
    spread and all of that noise would stay in the picture. Noise is drawn at every time above 0, with
    "fixed_small_but_last" in all steps but the last.
    """

    process: Process
    variance: str = "fixed_small"

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        abar, abar_next = self.process.alpha_bar_at(t), self.process.alpha_bar_at(t_next)
        beta = self.process.beta_between(t, t_next)
        from_x0 = math.sqrt(abar_next) * beta / (1.0 - abar)
        from_x = math.sqrt(1.0 - beta) * (1.0 - abar_next) / (1.0 - abar)
        mean = from_x0 * prediction.x0 + from_x * x
        if t <= 0 or (final and self.variance == BUT_LAST):
            return mean, prediction, None
        noise = draw(rng, x)
        smallest = max((1.0 - abar_next) / (1.0 - abar) * beta, SMALLEST_VARIANCE)
        if self.variance != "learned_range" or abar_next >= 1.0:
            return mean + math.sqrt(smallest) * noise, prediction, None
        return mean + self._learned(smallest, beta, prediction) * noise, prediction, None

    def _learned(self, smallest: float, beta: float, prediction: Prediction) -> Tensor:
        if prediction.var_frac is None:
            raise CheckpointError(
                "variance 'learned_range' was asked for, but the network has no variance channels.",
                "Use variance 'fixed_small'.",
            )
        low, high = math.log(smallest), math.log(beta)
        return torch.exp(0.5 * (low + prediction.var_frac * (high - low)))


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an unknown `variance` or an eta other than 1."""
    refuse_eta("ddpm", eta, 1.0)
    if variance not in VARIANCES:
        raise RequestError(f"unknown variance {variance!r}.", nearest(variance, VARIANCES))
    return DDPM(process, variance)
