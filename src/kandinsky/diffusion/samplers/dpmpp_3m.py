"""DPM-Solver++(3M): a third-order multistep method in the half log signal-to-noise ratio."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Rng
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.reading import Prediction
from kandinsky.diffusion.samplers.base import Sampler, refuse_eta
from kandinsky.diffusion.samplers.dpmpp_2m import Before, extrapolated


@dataclass(frozen=True, eq=False)
class DPMPP3M:
    """Extrapolates x0 by a parabola through the last three steps.

    The first step and the last are of first order, the second is of second. The state are the last two steps,
    newest first. Source: arXiv 2211.01095, section 4, with the third-order coefficients of its appendix.
    """

    process: Process

    def init(self, x: Tensor) -> tuple[Before, ...]:
        return ()

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: float,
        t_next: float,
        state: tuple[Before, ...],
        rng: Rng,
        final: bool,
    ) -> tuple[Tensor, Prediction, tuple[Before, ...]]:
        prediction = denoise(x, t)
        abar, abar_next = self.process.alpha_bar_at(t), self.process.alpha_bar_at(t_next)
        here = Before(prediction.x0, self.process.half_log_snr_at(t))
        h = self.process.half_log_snr_at(t_next) - here.half_log_snr
        kept = math.sqrt((1.0 - abar_next) / (1.0 - abar))
        decay, scale = math.expm1(-h), math.sqrt(abar_next)
        states = (here, *state[:1])
        if final or len(state) < 2:
            x0 = extrapolated(here, state[0], h) if state and not final else here.x0
            return kept * x - (scale * decay) * x0, prediction, states
        slope, curvature = _differences(here, state, h)
        x_next = kept * x - (scale * decay) * here.x0
        x_next = x_next + (scale * (decay / h + 1.0)) * slope
        x_next = x_next - (scale * ((decay + h) / h**2 - 0.5)) * curvature
        return x_next, prediction, states


def _differences(here: Before, state: tuple[Before, ...], h: float) -> tuple[Tensor, Tensor]:
    """The first derivative of x0 at the newest of three steps and half the second, in steps of `h`."""
    first, second = state
    near = (here.half_log_snr - first.half_log_snr) / h
    far = (first.half_log_snr - second.half_log_snr) / h
    newer, older = (here.x0 - first.x0) / near, (first.x0 - second.x0) / far
    curvature = (newer - older) / (near + far)
    return newer + near * curvature, curvature


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("dpmpp_3m", eta, 0.0)
    return DPMPP3M(process)
