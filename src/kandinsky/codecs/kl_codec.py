"""Pictures <-> the latents that the diffusion works on, by an autoencoder with a Gaussian posterior."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.codecs.linear_colours import LinearColours
from kandinsky.core.rng import Rng
from kandinsky.networks.kl import AutoencoderKL


@dataclass(frozen=True, eq=False)
class KLCodec:
    """The codec of checkpoints whose autoencoder has a posterior.

    The diffusion sees its latents times `scale`, which brings them to about unit variance (Rombach et al.
    2022, arXiv 2112.10752, appendix G).
    """

    network: AutoencoderKL
    scale: float

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
    def encode(self, pictures: Tensor, rng: Rng | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the pictures' dtype.

        With `rng` they are drawn from the posterior, one draw of their shape; without they are its mean.
        """
        mean, log_variance = self.network.encode(pictures.to(self._dtype))
        latents = mean.to(pictures.dtype)
        if rng is not None:
            noise = rng.normal(tuple(latents.shape)).to(latents)
            latents = latents + torch.exp(0.5 * log_variance.to(pictures.dtype)) * noise
        return self.scale * latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        return self.network.decode((latents / self.scale).to(self._dtype)).to(latents.dtype)

    @torch.no_grad()
    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small pictures (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> LinearColours:
        return LinearColours.fit(self.encode, self.downscale, self.network.quant_conv.weight.device)
