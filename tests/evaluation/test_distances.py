"""KID and FID against formulas written another way, and against what is known of Gaussians."""

import math

import pytest
import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.evaluation.kid import frechet_distance, kernel_distance, mmd_squared


def normal(count: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    drawn = torch.randn((count, width), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * scale + shift


def test_unbiased_estimate_equals_the_double_sum() -> None:
    x, y = normal(7, 5, 0), normal(6, 5, 1, shift=0.5)

    def kernel(a: Tensor, b: Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    within_x = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_y = sum(kernel(y[i], y[j]) for i in range(6) for j in range(6) if i != j) / 30
    across = sum(kernel(a, b) for a in x for b in y) / 42
    assert mmd_squared(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-10)


def test_kid_is_around_zero_for_one_distribution_and_grows_with_the_gap() -> None:
    base = normal(400, 8, 0)
    same = kernel_distance(base, normal(400, 8, 1), subsets=40, subset_size=200)
    near = kernel_distance(base, normal(400, 8, 2, shift=0.3), subsets=40, subset_size=200)
    far = kernel_distance(base, normal(400, 8, 3, shift=1.0), subsets=40, subset_size=200)
    assert abs(same.value) < 0.02
    assert 0.02 < near.value < far.value
    assert same.std > 0
    assert (far.subsets, far.subset_size) == (40, 200)


def test_kid_is_unbiased_in_expectation() -> None:
    values = torch.tensor([mmd_squared(normal(20, 4, 2 * i), normal(20, 4, 2 * i + 1)) for i in range(300)])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 4 * error


def test_kid_repeats_with_its_seed_and_shrinks_its_subsets() -> None:
    x, y = normal(30, 4, 0), normal(12, 4, 1)
    assert kernel_distance(x, y, subsets=5, seed=1) == kernel_distance(x, y, subsets=5, seed=1)
    assert kernel_distance(x, y, subsets=5, seed=1) != kernel_distance(x, y, subsets=5, seed=2)
    assert kernel_distance(x, y, subsets=5).subset_size == 6
    assert kernel_distance(x, y, subsets=5).std > 0


def test_fid_of_sets_with_known_moments() -> None:
    x = normal(500, 6, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + 2) == pytest.approx(6 * 4, rel=1e-8)
    # Scaling by 3 about the mean: each eigenvalue l gives l + 9 l - 2 * 3 l = 4 l.
    centred = x - x.mean(dim=0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(torch.cov(x.T).trace()), rel=1e-8)


def test_fid_of_covariances_that_do_not_commute() -> None:
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 0.7]], dtype=torch.float64)
    x, y = normal(300, 3, 0) @ mix, normal(200, 3, 1) @ mix.T
    a, b = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(a @ b).real.clamp_min(0).sqrt().sum()
    gap = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    assert frechet_distance(x, y) == pytest.approx(float(gap + a.trace() + b.trace() - 2 * root), rel=1e-8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-8)


def test_fid_with_fewer_images_than_features() -> None:
    x, y = normal(5, 12, 0), normal(6, 12, 1, shift=1.0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(x, y) > 5


def test_sets_that_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="at least two"):
        mmd_squared(normal(1, 4, 0), normal(5, 4, 0))
    with pytest.raises(DataError, match=r"\(5, 4\).*\(5, 3\)"):
        kernel_distance(normal(5, 4, 0), normal(5, 3, 0))
