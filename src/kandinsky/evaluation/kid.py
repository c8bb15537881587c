"""Distances between two sets of images in feature space: KID, which suits small sets, and FID."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import DataError


@dataclass(frozen=True)
class Distance:
    """A distance as the mean over random subsets, with their standard deviation."""

    value: float
    std: float
    subsets: int
    subset_size: int


def polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    """(x . y / D + 1)^3 for features (N, D) and (M, D): (N, M) (Binkowski 2018, section 4)."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def mmd_squared(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton 2012, equation 3).

    Features (N, D) and (M, D), both at least two. It may be a little below 0 when the sets agree.
    """
    _check(first, second)
    x, y = first.double(), second.double()
    within_x, within_y = polynomial_kernel(x, x), polynomial_kernel(y, y)
    n, m = len(x), len(y)
    return float(
        (within_x.sum() - within_x.diagonal().sum()) / (n * (n - 1))
        + (within_y.sum() - within_y.diagonal().sum()) / (m * (m - 1))
        - 2 * polynomial_kernel(x, y).mean()
    )


def kernel_distance(
    first: Tensor, second: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Distance:
    """KID between features (N, D) and (M, D): the mean of `mmd_squared` over random subsets (Binkowski 2018).

    Subsets are drawn without replacement and hold at most half of the smaller set: the mean stays unbiased,
    and the deviation says how much it depends on the images. The same seed gives the same value. Multiply
    by 1000 to compare with papers that report KID x 10^3.

    Raises DataError for fewer than two images or different widths.
    """
    _check(first, second)
    size = min(subset_size, max(2, min(len(first), len(second)) // 2))
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(
        [
            mmd_squared(
                first[torch.randperm(len(first), generator=generator)[:size]],
                second[torch.randperm(len(second), generator=generator)[:size]],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    spread = float(values.std()) if subsets > 1 else 0.0
    return Distance(float(values.mean()), spread, subsets, size)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """FID between features (N, D) and (M, D) (Heusel 2017, equation 6); biased upwards for small sets.

    The trace of the root of the product of covariances comes from symmetric eigenproblems: tr (A B)^1/2 =
    tr (A^1/2 B A^1/2)^1/2, which is real and needs no general matrix root.

    Raises DataError for fewer than two images or different widths.
    """
    _check(first, second)
    x, y = first.double(), second.double()
    mean_gap = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    width = x.shape[1]
    a, b = (torch.cov(features.T).reshape(width, width) for features in (x, y))
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return float(mean_gap + a.trace() + b.trace() - 2 * shared)


def _check(first: Tensor, second: Tensor) -> None:
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:] or first.ndim != 2:
        raise DataError(
            f"Features of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared.",
            "Both sets need at least two images and one kind of feature.",
        )
