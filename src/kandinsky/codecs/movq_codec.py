"""Pictures <-> the latents that the diffusion works on, by a MoVQ: unquantised and unscaled."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.codecs import strips
from kandinsky.codecs.linear_colours import LinearColours
from kandinsky.codecs.strips import Tiling
from kandinsky.core.rng import Noise
from kandinsky.networks.movq import MoVQ


@dataclass(frozen=True, eq=False)
class MoVQCodec:
    """The codec of every generation that decodes by a MoVQ; with `tiling` large pictures in strips."""

    network: MoVQ
    tiling: Tiling = "auto"

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
    def encode(self, pictures: Tensor, rng: Noise | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the pictures' dtype."""
        height, width = pictures.shape[2:]
        given = pictures.to(self._dtype)
        if strips.in_strips(self.tiling, height * width):
            return strips.one_by_one(self._encode_in_strips, given).to(pictures.dtype)
        return self.network.encode(given).to(pictures.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        height, width = latents.shape[2:]
        given = latents.to(self._dtype)
        if strips.in_strips(self.tiling, height * width * self.downscale**2):
            return strips.one_by_one(self._decode_in_strips, given).to(latents.dtype)
        return self.network.decode(given).to(latents.dtype)

    def _encode_in_strips(self, pictures: Tensor) -> Tensor:
        made: Tensor = self.network.quant_conv(strips.encode(self.network.encoder, pictures))
        return made

    def _decode_in_strips(self, latents: Tensor) -> Tensor:
        return strips.decode(self.network.decoder, self.network.post_quant_conv(latents), latents)

    @torch.no_grad()
    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small pictures (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> LinearColours:
        return LinearColours.fit(self.encode, self.downscale, self.network.quant_conv.weight.device)
