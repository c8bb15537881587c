"""Pictures <-> the latents that the diffusion works on, by a MoVQ: unquantised and unscaled."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.codecs.linear_colours import LinearColours
from kandinsky.core.rng import Rng
from kandinsky.networks.movq import MoVQ


@dataclass(frozen=True, eq=False)
class MoVQCodec:
    """The codec of every generation that decodes by a MoVQ."""

    network: MoVQ

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return self.network.config.downscale

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.network.config.codebook_dim

    @property
    def _dtype(self) -> torch.dtype:
        return self.network.quant_conv.weight.dtype

    @torch.no_grad()
    def encode(self, pictures: Tensor, rng: Rng | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the pictures' dtype."""
        return self.network.encode(pictures.to(self._dtype)).to(pictures.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        return self.network.decode(latents.to(self._dtype)).to(latents.dtype)

    @torch.no_grad()
    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small pictures (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> LinearColours:
        return LinearColours.fit(self.encode, self.downscale, self.network.quant_conv.weight.device)
