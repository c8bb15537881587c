"""Predicting the clean image at once, and again from less noise."""

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler, single_step


def renoise(process: Process, variance: str, eta: float) -> Sampler:
    """x0 of every step, noised afresh to the next time; the last x0 is the result.

    For networks that were distilled to predict in a few steps (arXiv 2303.01469, algorithm 1); others give
    ever blurrier images the fewer steps there are.
    """

    def step(move: Move) -> Tensor:
        x0 = move.prediction.x0
        return x0 if move.final else process.add_noise(x0, move.draw(), move.t_next)

    return single_step(process, step)
