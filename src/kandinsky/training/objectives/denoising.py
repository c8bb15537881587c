"""Losses of diffusion networks: targets, the bound for learned variances, and weights over time."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.training.config.objectives import Robust

Target = Literal["eps", "x0", "v"]
KINDS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "velocity": "v"}
"""What losses call each prediction type."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The tables of q(x_{t-1} | x_t, x0), each (T,) float32 on one device (arXiv 2006.11239, eq. 6 and 7).

    `log_variance` is that of the posterior with time 0 replaced by time 1, where it would be -inf.
    """

    alpha_bar: Tensor
    log_beta: Tensor
    log_variance: Tensor
    from_x0: Tensor
    from_x: Tensor

    @classmethod
    def of(cls, process: Process, device: torch.device) -> "Posterior":
        """Computes the tables of a process in float64."""
        betas, alpha_bar = process.betas.double(), process.alpha_bar.double()
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        variance = betas * (1 - before) / (1 - alpha_bar)
        tables = (
            alpha_bar,
            betas.log(),
            torch.cat([variance[1:2], variance[1:]]).log(),
            betas * before.sqrt() / (1 - alpha_bar),
            (1 - betas).sqrt() * (1 - before) / (1 - alpha_bar),
        )
        return cls(*(table.float().to(device) for table in tables))

    def mean(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The mean of x_{t-1} for clean x0 and noisy x, both (B, ...), at times t (B,)."""
        return _at(self.from_x0, t, x) * x0 + _at(self.from_x, t, x) * x


def target_of(kind: Target, process: Process, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The target of the network: the noise, the clean latents, or the velocity (arXiv 2202.00512, appendix D)."""
    if kind == "v":
        return process.velocity(x0, noise, t)
    return noise if kind == "eps" else x0


def clean_of(kind: Target, posterior: Posterior, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The clean latents that an output of this kind means for x_t, all (B, C, h, w)."""
    alpha_bar = _at(posterior.alpha_bar, t, x)
    if kind == "x0":
        return output
    if kind == "v":
        return alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * output
    return (x - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()


def squared_error(output: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared error of each row, (B,); `counted` (B, 1, h, w) weighs the places of images."""
    return _mean((output.float() - target.float()).square(), counted)


def huber_error(output: Tensor, target: Tensor, c: float, counted: Tensor | None = None) -> Tensor:
    """Mean pseudo-Huber error of each row, 2c (sqrt(error^2 + c^2) - c), (B,): about the square below c.

    Source: Charbonnier et al. 1997, "Deterministic edge-preserving regularization", eq. 8.
    """
    squared = (output.float() - target.float()).square()
    return _mean(2 * c * ((squared + c * c).sqrt() - c), counted)


def error_of(objective: Robust, output: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """The error of each row, (B,), as an objective counts it."""
    if objective.loss == "huber":
        return huber_error(output, target, objective.huber_c, counted)
    return squared_error(output, target, counted)


def with_offset(noise: Tensor, offsets: Tensor, deviation: float) -> Tensor:
    """Noise (B, C, h, w) and, on each channel as a whole, offsets (B, C, 1, 1) of this deviation."""
    return noise + deviation * offsets


def min_snr_weights(kind: Target, posterior: Posterior, t: Tensor, limit: float) -> Tensor:
    """Weights (B,) that cap the signal-to-noise ratio at `limit` (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""
    alpha_bar = posterior.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    capped = snr.clamp(max=limit)
    return {"eps": capped / snr, "x0": capped, "v": capped / (snr + 1)}[kind]


def variance_bound(
    posterior: Posterior,
    x0: Tensor,
    x: Tensor,
    t: Tensor,
    predicted: Tensor,
    raw: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """One term of the variational bound, in bits per number, that trains a learned-range variance: (B,).

    `x0`, `x` = x_t and `predicted` = the network's x0 are (B, C, h, w); `raw` are its variance channels:
    from -1 (the posterior's) to 1 (beta), Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 14 (log-
    interpolation). The mean is taken as it is (no gradient, their section 3.1), so this trains the variance
    alone. Time 0 is the likelihood of x0 in bins of 1/255, other times the divergence from the true
    posterior (their eq. 4 to 7). `counted` (B, 1, h, w) weighs the places of images.
    """
    x0, x, raw = x0.float(), x.float(), raw.float()
    part = (raw + 1) / 2
    log_variance = part * _at(posterior.log_beta, t, x) + (1 - part) * _at(posterior.log_variance, t, x)
    mean = posterior.mean(predicted.detach().float(), x, t)
    true_mean = posterior.mean(x0, x, t)
    divergence = _gaussian_divergence(true_mean, _at(posterior.log_variance, t, x), mean, log_variance)
    surprise = -_binned_log_likelihood(x0, mean, 0.5 * log_variance)
    terms = torch.where(t.reshape(-1, 1, 1, 1) == 0, surprise, divergence)
    return _mean(terms, counted) / math.log(2)


def _mean(terms: Tensor, counted: Tensor | None) -> Tensor:
    return (terms if counted is None else counted * terms).flatten(1).mean(1)


def _gaussian_divergence(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N1 || N2) in nats, for each number."""
    ratio = (log_var1 - log_var2).exp() + (mean1 - mean2).square() * (-log_var2).exp()
    return 0.5 * (ratio - 1 - log_var1 + log_var2)


def _binned_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of a Gaussian's mass in the bin of width 2/255 around x; outer bins reach to infinity."""
    inverse = (-log_std).exp()
    above = torch.special.ndtr((x - mean + 1 / 255) * inverse)
    below = torch.special.ndtr((x - mean - 1 / 255) * inverse)
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return mass.clamp(min=1e-12).log()


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries of a (T,) table at times (B,), ready to multiply `like`."""
    return table[t].reshape(-1, *[1] * (like.ndim - 1))
