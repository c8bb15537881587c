"""Reconstruction quality of an autoencoder: PSNR and LPIPS."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.networks.lpips import PerceptualLoss

Reconstruct = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [-1, 1] through an autoencoder and back, same shape."""


@dataclass(frozen=True)
class Quality:
    """Means over `images`: PSNR in decibels, LPIPS (0 is equal; None when its weights are not installed)."""

    psnr: float
    lpips: float | None
    images: int


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each pair (B,), in dB; both (B, 3, H, W) in [-1, 1].

    10 log10(4 / mean squared error), since the range is 2. Equal images give infinity.
    Raises DataError for different shapes.
    """
    if first.shape != second.shape:
        raise DataError(
            f"Images of {tuple(first.shape)} and {tuple(second.shape)} cannot be compared.", "Both need one size."
        )
    error = (first.double() - second.double()).square().flatten(1).mean(dim=1)
    return 10 * (4 / error).log10()


@torch.inference_mode()
def reconstruction_quality(
    reconstruct: Reconstruct, images: Tensor, perceptual: PerceptualLoss | None = None, *, batch_size: int = 16
) -> Quality:
    """Puts `images` (N, 3, H, W) in [-1, 1] through `reconstruct` and compares; results are clamped to [-1, 1].

    Raises DataError for an empty set or when a reconstruction has another shape.
    """
    if len(images) == 0:
        raise DataError("There is no image to reconstruct.", "Give at least one.")
    ratios, distances = [], []
    for first in range(0, len(images), batch_size):
        real = images[first : first + batch_size]
        made = reconstruct(real).clamp(-1, 1).to(real)
        ratios.append(psnr(made, real))
        if perceptual is not None:
            distances.append(perceptual(made, real))
    lpips = float(torch.cat(distances).mean()) if distances else None
    return Quality(float(torch.cat(ratios).mean()), lpips, len(images))
