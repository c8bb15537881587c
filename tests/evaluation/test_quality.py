"""PSNR by hand, and what a reconstruction report counts."""

import pytest
import torch

from kandinsky.core.errors import DataError
from kandinsky.evaluation.quality import psnr, reconstruction_quality
from kandinsky.networks.lpips import PerceptualConfig, PerceptualLoss


def test_psnr_by_hand() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[0] += 0.2
    # 10 log10(2^2 / 0.04) = 20 dB; equal images are infinitely good.
    assert psnr(a, b).tolist() == [pytest.approx(20.0, abs=1e-4), float("inf")]
    with pytest.raises(DataError, match="one size"):
        psnr(a, b[:, :, :2])


def test_reconstruction_is_batched_clamped_and_compared() -> None:
    images = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []

    def noisy(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return batch + 0.1

    torch.manual_seed(0)
    perceptual = PerceptualLoss(PerceptualConfig("alexnet"))
    found = reconstruction_quality(noisy, images, perceptual, batch_size=2)
    assert seen == [2, 2, 1]
    made = (images + 0.1).clamp(-1, 1)
    error = (made - images).square().mean(dim=(1, 2, 3))
    assert found.psnr == pytest.approx(float((10 * (4 / error).log10()).mean()), rel=1e-5)
    assert found.lpips == pytest.approx(float(perceptual(made, images).mean()), rel=1e-4)
    assert found.images == 5
    assert reconstruction_quality(noisy, images).lpips is None
    with pytest.raises(DataError, match="no image"):
        reconstruction_quality(noisy, images[:0])
