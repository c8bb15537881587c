"""DPM-Solver++(2M): a second-order multistep method in the half log signal-to-noise ratio."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, draw, refuse_eta


@dataclass(frozen=True, eq=False)
class Before:
    """What a step leaves to the next: its x0 and its half log signal-to-noise ratio."""

    x0: Tensor
    half_log_snr: float


@dataclass(frozen=True, eq=False)
class DPMPP2M:
    """Extrapolates x0 linearly from the last two steps to the middle of this one.

    The first step and the last, which may reach an infinite signal-to-noise ratio, use x0 as it is. Source:
    arXiv 2211.01095, algorithm 2. With `noisy` it solves the reverse equation with noise (section 5 and its
    appendix: SDE-DPM-Solver++(2M)), whose spread is that of the posterior; a clean end gets none.
    """

    process: Process
    noisy: bool = False

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
        from_x = math.sqrt((1.0 - abar_next) / (1.0 - abar))
        if not self.noisy:
            return from_x * x - (math.sqrt(abar_next) * math.expm1(-h)) * x0, prediction, here
        x_next = from_x * math.exp(-h) * x - (math.sqrt(abar_next) * math.expm1(-2.0 * h)) * x0
        spread = math.sqrt((1.0 - abar_next) * -math.expm1(-2.0 * h))
        return x_next + spread * draw(rng, x) if spread > 0 else x_next, prediction, here


def extrapolated(here: Before, before: Before, h: float) -> Tensor:
    """x0 in the middle of a step of `h` that begins `here`, on the line through the last two steps' x0."""
    reach = h / (here.half_log_snr - before.half_log_snr) / 2.0
    return here.x0 + reach * (here.x0 - before.x0)


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("dpmpp_2m", eta, 0.0)
    return DPMPP2M(process)


def build_noisy(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler with noise; raises RequestError for an eta other than 1."""
    refuse_eta("dpmpp_2m_sde", eta, 1.0)
    return DPMPP2M(process, noisy=True)
