"""Encodes images to latents and decodes latents to images with an autoencoder, large ones in strips."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from kandinsky.codecs import strips
from kandinsky.codecs.strips import Tiling
from kandinsky.core.rng import Noise
from kandinsky.networks.autoencoder import Autoencoder

LARGE = 1024 * 1024
"""Pixels beyond which an image is not coded as a whole unless that is asked for."""


def in_strips(tiling: Tiling, pixels: int) -> bool:
    """Whether an image of so many pixels is coded in strips: by its own size, never by that of its batch."""
    return pixels > LARGE if tiling == "auto" else tiling


@dataclass(frozen=True, eq=False)
class AutoencoderCodec:
    """The codec of every generation.

    The diffusion sees latents times `scale`, which brings those of an autoencoder with a posterior to about
    unit variance (Rombach et al. 2022, arXiv 2112.10752, appendix G). With `tiling` large images are coded in
    strips. `memory_format` is the order of what goes into the network, None for as it comes.
    """

    network: Autoencoder
    scale: float = 1.0
    tiling: Tiling = "auto"
    memory_format: torch.memory_format | None = None

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return self.network.config.downscale

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.network.post_quant_conv.in_channels

    @torch.no_grad()
    def encode(self, images: Tensor, rng: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the images' dtype.

        Where there is a posterior they are drawn from it by `rng`, one draw of their shape, and are its mean without.
        """
        given, network = self._given(images), self.network
        if in_strips(self.tiling, given.shape[2] * given.shape[3]):
            said = network.read(strips.one_by_one(partial(strips.encode, network.encoder), given))
        else:
            said = network.encode(given)
        mean, log_variance = (said, None) if isinstance(said, Tensor) else said
        latents = mean.to(images.dtype)
        if rng is not None and log_variance is not None:
            noise = rng.normal(tuple(latents.shape)).to(latents)
            latents = latents + torch.exp(0.5 * log_variance.to(images.dtype)) * noise
        return latents if self.scale == 1.0 else self.scale * latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        given = self._given(latents if self.scale == 1.0 else latents / self.scale)
        if in_strips(self.tiling, given.shape[2] * given.shape[3] * self.downscale**2):
            return strips.one_by_one(self._decode_in_strips, given).to(latents.dtype)
        return self.network.decode(given).to(latents.dtype)

    def _decode_in_strips(self, latents: Tensor) -> Tensor:
        return strips.decode(self.network.decoder, self.network.post_quant_conv(latents), latents)

    def _given(self, x: Tensor) -> Tensor:
        x = x.to(self.network.quant_conv.weight.dtype)
        return x if self.memory_format is None else x.contiguous(memory_format=self.memory_format)

    @torch.no_grad()
    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small images (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> "LinearColours":
        return LinearColours.fit(self.encode, self.downscale, self.network.quant_conv.weight.device)


@dataclass(frozen=True, eq=False)
class LinearColours:
    """Latents (B, C, h, w) to small images (B, 3, h, w) in [-1, 1], by `matrix` (C, 3) and `bias` (3,)."""

    matrix: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, encode: Callable[[Tensor], Tensor], downscale: int, device: torch.device) -> "LinearColours":
        """The least squares fit to 27 images of one colour each, encoded on `device`."""
        levels = torch.tensor([-1.0, 0.0, 1.0])
        colours = torch.cartesian_prod(levels, levels, levels)
        side = 8 * downscale
        images = colours[:, :, None, None].expand(-1, -1, side, side)
        latents = encode(images.to(device)).float().mean(dim=(2, 3)).cpu()
        with_one = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
        fit = torch.linalg.lstsq(with_one, colours).solution
        return cls(fit[:-1], fit[-1])

    def __call__(self, latents: Tensor) -> Tensor:
        rgb = torch.einsum("bchw,cd->bdhw", latents.float(), self.matrix.to(latents.device))
        return (rgb + self.bias.to(latents.device)[:, None, None]).clamp(-1, 1)
