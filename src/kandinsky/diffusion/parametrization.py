"""What a network's output means: each parametrization gives the same pair of x0 and eps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network said about x_t, in one meaning.

    `x0` and `eps` are the predicted clean image and noise, shaped like x. `var_frac` is where between the
    posterior variance (0) and beta (1) the log-variance lies (arXiv 2102.09672, eq. 15), or None for a
    network without variance channels; a network may leave [0, 1].
    """

    x0: Tensor
    eps: Tensor
    var_frac: Tensor | None = None


Parametrization = Callable[[Tensor, Tensor, float], Prediction]


def epsilon(output: Tensor, x: Tensor, abar: float) -> Prediction:
    """Reads `output` as the noise (arXiv 2006.11239, eq. 15).

    `output` is (B, C, ...) or, with variance channels behind, (B, 2C, ...); `x` is (B, C, ...); `abar` in (0,
    1). The result has the dtype of `x`. Raises CheckpointError for any other number of channels.
    """
    eps, var_frac = _split(output, x)
    return Prediction((x - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar), eps, var_frac)


def sample(output: Tensor, x: Tensor, abar: float) -> Prediction:
    """Reads `output` as the clean image; shapes, dtype and errors as in `epsilon`."""
    x0, var_frac = _split(output, x)
    return Prediction(x0, eps_of(x0, x, abar), var_frac)


def velocity(output: Tensor, x: Tensor, abar: float) -> Prediction:
    """Reads `output` as the velocity (arXiv 2202.00512, appendix D); shapes, dtype and errors as in `epsilon`."""
    v, var_frac = _split(output, x)
    signal, spread = math.sqrt(abar), math.sqrt(1.0 - abar)
    return Prediction(signal * x - spread * v, signal * v + spread * x, var_frac)


PARAMETRIZATIONS: dict[str, Parametrization] = {"epsilon": epsilon, "sample": sample, "velocity": velocity}


def eps_of(x0: Tensor, x: Tensor, abar: float) -> Tensor:
    """Returns the noise that together with `x0` makes `x`; both (B, C, ...), `abar` below 1."""
    return (x - math.sqrt(abar) * x0) / math.sqrt(1.0 - abar)


def _split(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Separates the mean channels from the variance channels and maps the latter from [-1, 1] to [0, 1]."""
    output = output.to(x.dtype)
    channels = x.shape[1]
    if output.shape == x.shape:
        return output, None
    if output.shape != (x.shape[0], 2 * channels, *x.shape[2:]):
        raise CheckpointError(
            f"the network returned shape {tuple(output.shape)} for latents of shape {tuple(x.shape)}.",
            f"Expected {channels} channels, or {2 * channels} with variances.",
        )
    mean, variance = torch.split(output, channels, dim=1)
    return mean, (variance + 1.0) / 2.0
