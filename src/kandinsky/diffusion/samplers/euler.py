"""Euler's method on the probability-flow equation: plain, with noise, and Heun's.

The equation is dy/dsigma = (y - x0) / sigma, in the scaled space y = x / sqrt(alpha_bar).
"""

import math

from torch import Tensor

from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Move, Sampler, single_step


def euler(process: Process, variance: str, eta: float) -> Sampler:
    """One Euler step (arXiv 2206.00364, algorithm 1 without the correction).

    The step is the straight line from y to x0, written so that it also holds at sigma = 0. It equals DDIM
    without noise as long as eps and x0 agree.
    """
    return single_step(process, _toward_x0)


def euler_ancestral(process: Process, variance: str, eta: float) -> Sampler:
    """An Euler step that goes below sigma_next and comes back up with noise.

    The spread is split as sigma_next^2 = sigma_up^2 + sigma_down^2 with sigma_up the posterior deviation times `eta` in
    [0, 1] (arXiv 2006.11239, eq. 7 in the scaled space of arXiv 2206.00364). Nothing is drawn for a clean end.
    """

    def step(move: Move) -> Tensor:
        (sigma, sigma_next), (scale, scale_next) = move.sigmas, move.scales
        sigma_up = eta * sigma_next * math.sqrt(max(1.0 - (sigma_next / sigma) ** 2, 0.0))
        ratio = math.sqrt(sigma_next**2 - sigma_up**2) / sigma
        x_next = (scale_next * ratio / scale) * move.x + (scale_next * (1.0 - ratio)) * move.prediction.x0
        return x_next + (scale_next * sigma_up) * move.draw() if sigma_up > 0 else x_next

    return single_step(process, step)


def heun(process: Process, variance: str, eta: float) -> Sampler:
    """An Euler step, repeated with the mean of the slopes at both ends (arXiv 2206.00364, algorithm 1).

    Calls the network twice per step, except for the last, whose end it knows nothing about.
    """
    return single_step(process, _heun)


def _toward_x0(move: Move) -> Tensor:
    (sigma, sigma_next), (scale, scale_next) = move.sigmas, move.scales
    ratio = sigma_next / sigma
    return (scale_next * ratio / scale) * move.x + (scale_next * (1.0 - ratio)) * move.prediction.x0


def _heun(move: Move) -> Tensor:
    x_euler = _toward_x0(move)
    if move.final:
        return x_euler
    (sigma, sigma_next), (scale, scale_next) = move.sigmas, move.scales
    y = move.x / scale
    slope = (y - move.prediction.x0) / sigma
    slope_next = (x_euler / scale_next - move.denoise(x_euler, move.t_next).x0) / sigma_next
    return scale_next * (y + (0.5 * (sigma_next - sigma)) * (slope + slope_next))
