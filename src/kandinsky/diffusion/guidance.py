"""Classifier-free guidance."""

from torch import Tensor

from kandinsky.diffusion.reading import Prediction


def is_guided(scale: float | Tensor | None) -> bool:
    """Says whether `scale` needs the unconditional half: above 1, or any row above 1 in a (B,) tensor."""
    if scale is None:
        return False
    return bool((scale > 1).any()) if isinstance(scale, Tensor) else scale > 1


def combine(uncond: Prediction, cond: Prediction, scale: float | Tensor) -> Prediction:
    """Returns uncond + scale (cond - uncond), with the variances of `cond`.

    `scale` is one number or a (B,) tensor, one per picture; 1 gives `cond`. Source:
    arXiv 2207.12598, eq. 6 with w = scale - 1.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(cond.x0.device, cond.x0.dtype).reshape(-1, *[1] * (cond.x0.ndim - 1))
    x0 = uncond.x0 + scale * (cond.x0 - uncond.x0)
    eps = uncond.eps + scale * (cond.eps - uncond.eps)
    return Prediction(x0, eps, cond.var_frac)
