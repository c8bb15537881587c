"""SDE-DPM-Solver++(2M): the second-order multistep method with the fresh noise of ancestral sampling."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.reading import Prediction
from kandinsky.diffusion.samplers.base import Sampler, draw, refuse_eta
from kandinsky.diffusion.samplers.dpmpp_2m import Before, extrapolated


@dataclass(frozen=True, eq=False)
class DPMPP2MSDE:
    """DPM-Solver++(2M) on the reverse equation with noise, whose spread is that of the posterior.

    The first step and the last are of first order, and nothing is drawn for a clean end. Source: arXiv
    2211.01095, section 5 and its appendix on SDE solvers.
    """

    process: Process

    def init(self, x: Tensor) -> Before | None:
        return None

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: float,
        t_next: float,
        state: Before | None,
        rng: Noise,
        final: bool,
    ) -> tuple[Tensor, Prediction, Before]:
        prediction = denoise(x, t)
        abar, abar_next = self.process.alpha_bar_at(t), self.process.alpha_bar_at(t_next)
        here = Before(prediction.x0, self.process.half_log_snr_at(t))
        h = self.process.half_log_snr_at(t_next) - here.half_log_snr
        x0 = prediction.x0 if state is None or final else extrapolated(here, state, h)
        from_x = math.sqrt((1.0 - abar_next) / (1.0 - abar)) * math.exp(-h)
        x_next = from_x * x - (math.sqrt(abar_next) * math.expm1(-2.0 * h)) * x0
        spread = math.sqrt((1.0 - abar_next) * -math.expm1(-2.0 * h))
        if spread > 0:
            x_next = x_next + spread * draw(rng, x)
        return x_next, prediction, here


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 1."""
    refuse_eta("dpmpp_2m_sde", eta, 1.0)
    return DPMPP2MSDE(process)
