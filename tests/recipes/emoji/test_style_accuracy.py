"""Styles and backgrounds of images that are known to have them."""

import pytest
import torch
from style_accuracy import StyleReader, background_share

from kandinsky.core.errors import DataError

PALETTE = [(255, 255, 255), (0, 0, 0), (222, 48, 44)]


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three styles, ids 2, 5 and 9, apart in two of twelve directions."""
    generator = torch.Generator().manual_seed(seed)
    styles = torch.tensor([2, 5, 9]).repeat(count)
    features = torch.randn(3 * count, 12, generator=generator)
    features[:, 0] += 8 * (styles == 5)
    features[:, 1] += 8 * (styles == 9)
    return features, styles


def test_styles_are_told_apart_on_images_that_were_not_seen() -> None:
    reader = StyleReader.fit(*blobs(100, 0))
    features, styles = blobs(40, 1)
    found = reader.share(features, styles)
    assert found.right > 0.97
    assert (found.chance, found.images) == (pytest.approx(1 / 3), 120)
    # One image in three asked for has what all were asked for.
    assert reader.share(features, torch.full_like(styles, 5)).right == pytest.approx(1 / 3, abs=0.03)


def test_features_without_style_tell_nothing() -> None:
    features, styles = blobs(400, 0)
    reader = StyleReader.fit(features[:, 2:], styles)
    unseen, wanted = blobs(400, 1)
    assert reader.share(unseen[:, 2:], wanted).right == pytest.approx(1 / 3, abs=0.06)


def test_a_background_is_what_the_upper_corners_show() -> None:
    images = torch.tensor(PALETTE).float()[:, :, None, None].expand(-1, -1, 16, 16) / 127.5 - 1
    images = images.clone() + 0.1
    images[:, :, 5:] = torch.rand(3, 3, 11, 16)
    assert background_share(images, torch.tensor([0, 1, 2]), PALETTE).right == 1
    found = background_share(images, torch.tensor([0, 0, 0]), PALETTE)
    assert (found.right, found.chance, found.images) == (pytest.approx(1 / 3), pytest.approx(1 / 3), 3)


def test_errors() -> None:
    features, styles = blobs(4, 0)
    with pytest.raises(DataError, match=r"one style, \[2\]"):
        StyleReader.fit(features, torch.full_like(styles, 2))
    with pytest.raises(DataError, match="no image"):
        background_share(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), PALETTE)
