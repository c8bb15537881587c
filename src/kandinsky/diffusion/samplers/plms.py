"""PLMS: pseudo linear multistep sampling."""

import math
from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, refuse_eta

# Adams-Bashforth weights of orders 1 to 4, the newest noise first (arXiv 2202.09778, section 3.3).
WEIGHTS: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True, eq=False)
class PLMS:
    """DDIM's step with a noise extrapolated from the last four predictions (arXiv 2202.09778, section 3.3).

    The first step looks ahead once and averages, so it calls the network twice; the times should be evenly
    spaced. The state is the tuple of the last noises, newest first, at most three.
    """

    process: Process

    def init(self, x: Tensor) -> tuple[Tensor, ...]:
        return ()

    def step(
        self,
        denoise: Denoiser,
        x: Tensor,
        t: float,
        t_next: float,
        state: tuple[Tensor, ...],
        rng: Noise,
        final: bool,
    ) -> tuple[Tensor, Prediction, tuple[Tensor, ...]]:
        prediction = denoise(x, t)
        known = (prediction.eps, *state)
        if not state and not final:
            ahead = denoise(self._move(x, prediction.eps, t, t_next), t_next)
            eps = (prediction.eps + ahead.eps) / 2.0
        else:
            weights = WEIGHTS[len(known) - 1]
            eps = weights[0] * known[0]
            for weight, old in zip(weights[1:], known[1:], strict=True):
                eps = eps + weight * old
        return self._move(x, eps, t, t_next), prediction, known[:3]

    def _move(self, x: Tensor, eps: Tensor, t: float, t_next: float) -> Tensor:
        abar, abar_next = self.process.alpha_bar_at(t), self.process.alpha_bar_at(t_next)
        scale = math.sqrt(abar_next / abar)
        return scale * x + (math.sqrt(1.0 - abar_next) - scale * math.sqrt(1.0 - abar)) * eps


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 0."""
    refuse_eta("plms", eta, 0.0)
    return PLMS(process)
