"""Wraps a network and its conditions so that it returns x0 and eps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kandinsky.diffusion.constraints import Constraint, Paste
from kandinsky.diffusion.guidance import EVERYWHERE, Interval, combine, is_guided
from kandinsky.diffusion.parametrization import Parametrization, Prediction
from kandinsky.diffusion.process import Process, in_working_precision

Denoiser = Callable[[Tensor, float], Prediction]
Network = Callable[[Tensor, float], Tensor]


def make_denoiser(
    network: Network,
    process: Process,
    parametrization: Parametrization,
    guidance_scale: float | Tensor | None = None,
    constraints: Sequence[Constraint] = (),
    paste: Paste | None = None,
    *,
    interval: Interval = EVERYWHERE,
    conditional_only: Network | None = None,
) -> Denoiser:
    """Returns (x, t) -> Prediction for x of shape (B, C, ...) and a time t in 0 .. T - 1.

    `network(x, t)` is closed over its conditions, and called with 2B rows, the unconditional ones first,
    where `guidance_scale` (a number or a tensor (B,), up to 1 unguided) guides; elsewhere and outside
    `interval` `conditional_only(x, t)`, by default `network`, is called with B rows. Networks work in any
    dtype; what follows is done in float32, or float64 for a float64 x. `constraints` are applied in order,
    with `paste` at the place of the known region.
    """
    scale = guidance_scale.clamp(min=1.0) if isinstance(guidance_scale, Tensor) else guidance_scale
    guided, unguided = is_guided(scale), conditional_only or network

    def denoise(x: Tensor, t: float) -> Prediction:
        x = in_working_precision(x)
        abar = process.alpha_bar_at(t)
        if scale is not None and guided and interval.holds(t, process.T):
            uncond, cond = (parametrization(half, x, abar) for half in network(torch.cat([x, x]), t).chunk(2))
            prediction = combine(uncond, cond, scale)
        else:
            prediction = parametrization(unguided(x, t), x, abar)
        for constraint in constraints:
            prediction = constraint.apply(prediction, x, abar, paste)
        return prediction

    return denoise
