"""The autoencoder with a Gaussian posterior that latent diffusion began with.

Sources: Kingma and Welling 2014, "Auto-Encoding Variational Bayes"; Rombach et al. 2022, arXiv 2112.10752,
section 3.1.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from kandinsky.networks.autoencoder import Decoder, Encoder, Sizes

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to this range, in which the weights were trained."""


@dataclass(frozen=True)
class KLConfig:
    """Sizes of the autoencoder, by default the published one of 83.7 M parameters; `channels` run from the full
    resolution to the latents'. Attention is in the middle only."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    image_channels: int = 3
    latent_channels: int = 4
    groups: int = 32

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.channels) - 1))


class AutoencoderKL(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H / f, W / f), f = `config.downscale`."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        sizes = Sizes(config.image_channels, latent, config.channels, config.layers, config.groups, False)
        self.encoder = Encoder(replace(sizes, features=2 * latent))
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        self.decoder = Decoder(sizes)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1], sides multiples of f, to the posterior's mean and log-variance in [-30, 20],
        both (B, 4, H / f, W / f) and unscaled."""
        return self.read(self.encoder(x))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance from the encoder's output (B, 8, H / f, W / f)."""
        mean, log_variance = self.quant_conv(features).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, h, w), unscaled, to images (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        return self.decoder(self.post_quant_conv(z))  # type: ignore[no-any-return]
