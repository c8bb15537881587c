"""MoVQ: an autoencoder whose decoder norms are modulated by the latents.

The diffusion models work on its unquantised, unscaled latents; its codebook only serves its own training.
Source: Zheng et al. 2022, arXiv 2209.09002.
"""

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.networks.autoencoder import Decoder, Encoder, Quantized, Sizes
from kandinsky.networks.layers import check_divides

DECODER_GROUPS = 32  # the published decoder norms have 32 groups whatever the configuration says


@dataclass(frozen=True)
class MoVQConfig:
    """Sizes of a MoVQ, by default the published one of 67.8 M parameters; `codebook_size` 0 leaves out the codebook,
    which coding does not need. ConfigError when groups do not divide the channels."""

    channels: tuple[int, ...] = (128, 256, 256, 512)
    layers: int = 2
    image_channels: int = 3
    latent_channels: int = 4
    codebook_size: int = 16384
    codebook_dim: int = 4
    groups: int = 32

    def __post_init__(self) -> None:
        for groups in (self.groups, DECODER_GROUPS):
            check_divides(f"{groups} groups", groups, self.channels)

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.channels) - 1))


class MoVQ(nn.Module):
    """The autoencoder: images (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H / f, W / f), f = downscale."""

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        self.config = config
        features, latents, size = config.latent_channels, config.codebook_dim, config.codebook_size
        sizes = Sizes(config.image_channels, features, config.channels, config.layers, config.groups, True)
        self.encoder = Encoder(sizes)
        self.quant_conv = nn.Conv2d(features, latents, 1)
        self.codebook = nn.Embedding(size, latents) if size else None
        self.post_quant_conv = nn.Conv2d(latents, features, 1)
        self.decoder = Decoder(replace(sizes, groups=DECODER_GROUPS), latents)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], sides multiples of f, to latents (B, 4, H / f, W / f)."""
        return self.read(self.encoder(x))

    def read(self, features: Tensor) -> Tensor:
        """Latents from the encoder's output."""
        return self.quant_conv(features)  # type: ignore[no-any-return]

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, h, w), quantised or not, to images (B, 3, h * f, w * f), not clamped."""
        return self.decoder(self.post_quant_conv(z), z)  # type: ignore[no-any-return]

    @property
    def required_codebook(self) -> nn.Embedding:
        """The codebook; ConfigError when the network has none."""
        if self.codebook is None:
            raise ConfigError("This MoVQ has no codebook.", "Give codebook_size, or use its plain latents.")
        return self.codebook

    def quantize(self, z: Tensor) -> Quantized:
        """Replaces each latent vector by its nearest code (van den Oord et al. 2017, arXiv 1711.00937)."""
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        codebook = self.required_codebook
        codes = codebook.weight.float()
        distances = codes.square().sum(1) - 2 * flat @ codes.T
        indices = distances.argmin(1)
        nearest = codebook(indices).view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2).to(z.dtype)
        codebook_loss = F.mse_loss(nearest, z.detach())
        commitment_loss = F.mse_loss(z, nearest.detach())
        straight_through = z + (nearest - z).detach()
        return Quantized(straight_through, indices.view(z.shape[0], *z.shape[2:]), codebook_loss, commitment_loss)
