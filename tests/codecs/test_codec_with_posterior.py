"""The codec with a posterior: its scale, its draws, its previews."""

import pytest
import torch

from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.core.rng import PerImageRng
from kandinsky.networks.kl import AutoencoderKL, KLConfig
from tests.parity.oracles import noise, redraw
from tests.replay import ReplayRng

SCALE = 0.0512


@pytest.fixture(scope="module")
def codec() -> AutoencoderCodec:
    torch.manual_seed(0)
    return AutoencoderCodec(redraw(AutoencoderKL(KLConfig(channels=(8, 8, 8), layers=1, groups=4))), SCALE)


def test_draws_from_the_posterior(codec: AutoencoderCodec) -> None:
    images = noise(2, 3, 16, 16)
    with torch.no_grad():
        mean, log_variance = codec.network.encode(images)
    torch.testing.assert_close(codec.encode(images), SCALE * mean)
    drawn = noise(2, 4, 4, 4, seed=1)
    wanted = SCALE * (mean + (0.5 * log_variance).exp() * drawn)
    torch.testing.assert_close(codec.encode(images, ReplayRng([drawn])), wanted)
    assert (codec.downscale, codec.channels) == (4, 4)


def test_each_image_has_its_own_draw(codec: AutoencoderCodec) -> None:
    images = noise(2, 3, 16, 16)
    both = codec.encode(images, PerImageRng.from_seeds([5, 6]))
    alone = codec.encode(images[1:], PerImageRng.from_seeds([6]))
    torch.testing.assert_close(both[1:], alone)


def test_decodes_what_was_scaled(codec: AutoencoderCodec) -> None:
    z = noise(1, 4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(SCALE * z), codec.network.decode(z))


def test_previews_are_the_best_linear_map(codec: AutoencoderCodec) -> None:
    colours = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    images = colours[:, :, None, None].expand(-1, -1, 32, 32)
    preview = codec.preview(codec.encode(images))
    assert preview.shape == (2, 3, 8, 8)
    assert preview.min() >= -1
    assert preview.max() <= 1
    scrambled = codec.preview(codec.encode(-images))
    error, other = ((shown.mean(dim=(2, 3)) - colours).square().sum() for shown in (preview, scrambled))
    assert error < other
