"""The codec: dtypes at its edge, and a preview of right colours that decodes nothing."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.networks.movq import MoVQ, MoVQConfig
from tests.parity.oracles import noise, redraw


@dataclass(frozen=True)
class Sizes:
    downscale: int = 4
    codebook_dim: int = 4


class Averages(nn.Module):
    """A codec whose latents are mixed mean colours of 4 x 4 pixels, so that the right preview is known."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Sizes()
        self.quant_conv = nn.Conv2d(3, 4, 1)
        self.encoded = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += 1
        y: Tensor = self.quant_conv(F.avg_pool2d(x, 4))
        return y

    def decode(self, z: Tensor) -> Tensor:
        raise AssertionError("a preview must not decode")


def codec_of(network: Any) -> AutoencoderCodec:
    return AutoencoderCodec(network)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_preview_has_the_colours_of_the_image(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = Averages().to(dtype)
    codec = codec_of(network)
    images = F.interpolate(noise(2, 3, 5, 6).clamp(-1, 1), scale_factor=4.0)
    small = codec.preview(codec.encode(images))
    assert small.shape == (2, 3, 5, 6)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert (small - F.avg_pool2d(images, 4)).abs().max() < tolerance
    encoded = network.encoded
    codec.preview(codec.encode(images))
    assert network.encoded == encoded + 1, "the map from latents to colours is found once"


def test_a_preview_of_latents_that_hold_no_colour_stays_an_image() -> None:
    network = Averages()
    nn.init.zeros_(network.quant_conv.weight)
    small = codec_of(network).preview(100 * noise(1, 4, 3, 3))
    assert small.isfinite().all()
    assert small.abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_results_are_in_the_caller_s_dtype(dtype: torch.dtype) -> None:
    network = redraw(MoVQ(MoVQConfig((32, 64), 1, codebook_size=8))).to(dtype)
    codec = AutoencoderCodec(network)
    assert (codec.downscale, codec.channels) == (2, 4)
    images = noise(2, 3, 8, 12)
    latents = codec.encode(images)
    assert (latents.shape, latents.dtype) == ((2, 4, 4, 6), torch.float32)
    decoded = codec.decode(latents.double())
    assert (decoded.shape, decoded.dtype) == ((2, 3, 8, 12), torch.float64)
    assert not decoded.requires_grad
    with torch.no_grad():
        wanted = network.decode(latents.to(dtype)).double()
    assert torch.equal(decoded, wanted)
