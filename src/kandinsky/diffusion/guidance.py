"""Classifier-free guidance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.diffusion.parametrization import Prediction


@dataclass(frozen=True)
class Interval:
    """Where guidance acts: at times t of a process of T with low <= t / T <= high.

    0 is the clean image and 1 pure noise, so that all times lie in the default. Source: Kynkaanniemi et al.
    2024, arXiv 2404.07724; there in noise levels.
    """

    low: float = 0.0
    high: float = 1.0

    def holds(self, t: float, T: int) -> bool:
        """Whether time `t` in 0 .. `T` - 1 lies in it."""
        return self.low <= t / T <= self.high


EVERYWHERE = Interval()
"""From the clean image to pure noise."""


def is_guided(scale: float | Tensor | None) -> bool:
    """Says whether `scale` needs the unconditional half: above 1, or any row above 1 in a (B,) tensor."""
    if scale is None:
        return False
    return bool((scale > 1).any()) if isinstance(scale, Tensor) else scale > 1


def joint(scales: Sequence[float | None]) -> float | Tensor | None:
    """The scales of the images of a batch as one: a number where all are equal, else a tensor (B,).

    None, which is unguided, counts as 1 among others.
    """
    if len(set(scales)) == 1:
        return scales[0]
    return torch.tensor([1.0 if scale is None else scale for scale in scales], dtype=torch.float64)


def combine(uncond: Prediction, cond: Prediction, scale: float | Tensor) -> Prediction:
    """Returns uncond + scale (cond - uncond), with the variances of `cond`.

    `scale` is one number or a (B,) tensor, one per image; 1 gives `cond`. Source:
    arXiv 2207.12598, eq. 6 with w = scale - 1.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(cond.x0.device, cond.x0.dtype).reshape(-1, *[1] * (cond.x0.ndim - 1))
    x0 = uncond.x0 + scale * (cond.x0 - uncond.x0)
    eps = uncond.eps + scale * (cond.eps - uncond.eps)
    return Prediction(x0, eps, cond.var_frac)
