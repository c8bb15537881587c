"""Pictures <-> the latents that the diffusion works on, by an autoencoder with a Gaussian posterior."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.codecs import strips
from kandinsky.codecs.linear_colours import LinearColours
from kandinsky.codecs.strips import Tiling
from kandinsky.core.rng import Noise
from kandinsky.networks.kl import AutoencoderKL


@dataclass(frozen=True, eq=False)
class KLCodec:
    """The codec of checkpoints whose autoencoder has a posterior.

    The diffusion sees its latents times `scale`, which brings them to about unit variance (Rombach et al.
    2022, arXiv 2112.10752, appendix G). With `tiling` large pictures are coded in strips.
    """

    network: AutoencoderKL
    scale: float
    tiling: Tiling = "auto"

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return self.network.config.downscale

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.network.config.latent_channels

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.quant_conv.weight.dtype

    @torch.no_grad()
    def encode(self, pictures: Tensor, rng: Noise | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the pictures' dtype.

        With `rng` they are drawn from the posterior, one draw of their shape; without they are its mean.
        """
        mean, log_variance = self._posterior(pictures.to(self._dtype))
        latents = mean.to(pictures.dtype)
        if rng is not None:
            noise = rng.normal(tuple(latents.shape)).to(latents)
            latents = latents + torch.exp(0.5 * log_variance.to(pictures.dtype)) * noise
        return self.scale * latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        height, width = latents.shape[2:]
        given = (latents / self.scale).to(self._dtype)
        if strips.in_strips(self.tiling, height * width * self.downscale**2):
            return strips.one_by_one(self._decode_in_strips, given).to(latents.dtype)
        return self.network.decode(given).to(latents.dtype)

    def _posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        height, width = pictures.shape[2:]
        if strips.in_strips(self.tiling, height * width):
            return self.network.posterior(strips.one_by_one(self._features_in_strips, pictures))
        return self.network.encode(pictures)

    def _features_in_strips(self, pictures: Tensor) -> Tensor:
        return strips.encode(self.network.encoder, pictures)

    def _decode_in_strips(self, latents: Tensor) -> Tensor:
        return strips.decode(self.network.decoder, self.network.post_quant_conv(latents), None)

    @torch.no_grad()
    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small pictures (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> LinearColours:
        return LinearColours.fit(self.encode, self.downscale, self.network.quant_conv.weight.device)
