"""Predicting the clean picture at once, and again from less noise."""

from dataclasses import dataclass

from torch import Tensor

from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler, draw, refuse_eta


@dataclass(frozen=True, eq=False)
class Renoise:
    """x0 of every step, noised afresh to the next time; the last x0 is the result.

    For networks that were distilled to predict in a few steps (arXiv 2303.01469, algorithm 1); others give
    ever blurrier pictures the fewer steps there are.
    """

    process: Process

    def init(self, x: Tensor) -> None:
        return None

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: None, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, None]:
        prediction = denoise(x, t)
        if final:
            return prediction.x0, prediction, None
        return self.process.add_noise(prediction.x0, draw(rng, x), t_next), prediction, None


def build(process: Process, variance: str, eta: float | None) -> Sampler:
    """Makes the sampler; raises RequestError for an eta other than 1."""
    refuse_eta("renoise", eta, 1.0)
    return Renoise(process)
