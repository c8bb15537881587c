"""The autoencoder with a Gaussian posterior that latent diffusion began with.

Sources: Kingma and Welling 2014, "Auto-Encoding Variational Bayes"; Rombach et al. 2022, "High-Resolution
Image Synthesis with Latent Diffusion Models", section 3.1 and appendix (the architecture).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from kandinsky.networks.layers import channels_innermost
from kandinsky.networks.movq import Downsample, Level, Middle, Norm, Upsample

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to this range, in which the weights were trained."""


@dataclass(frozen=True)
class KLConfig:
    """Sizes of the autoencoder; the defaults are the published one of 83.7 M parameters.

    `channels` runs from the full resolution to the latents'; attention is in the middle only.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    image_channels: int = 3
    latent_channels: int = 4
    groups: int = 32

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.channels) - 1))


class Encoder(nn.Module):
    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        channels, last = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.image_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = channels[0]
        for i, c in enumerate(channels):
            widths = [(width if j == 0 else c, c) for j in range(config.layers)]
            self.down.append(Level(widths, config.groups, None, False, Downsample(c) if i < last else None))
            width = c
        self.mid = Middle(width, config.groups, None)
        self.norm_out = Norm(width, config.groups, None)
        self.conv_out = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, None)
        y: Tensor = self.conv_out(self.norm_out(self.mid(x, None), None, silu=True))
        return y


class Decoder(nn.Module):
    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        channels, last = config.channels[::-1], len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid = Middle(channels[0], config.groups, None)
        self.up = nn.ModuleList()
        width = channels[0]
        for i, c in enumerate(channels):
            widths = [(width if j == 0 else c, c) for j in range(config.layers + 1)]
            self.up.append(Level(widths, config.groups, None, False, Upsample(c) if i < last else None))
            width = c
        self.norm_out = Norm(width, config.groups, None)
        self.conv_out = nn.Conv2d(width, config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z), None)
        for level in self.up:
            x = level(x, None)
        y: Tensor = self.conv_out(self.norm_out(x, None, silu=True))
        return y


class AutoencoderKL(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H / f, W / f), f = `config.downscale`."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of f, to the posterior's mean and log-variance.

        Both are (B, 4, H / f, W / f) and unscaled; the log-variance lies in [-30, 20].
        """
        return self.posterior(self.encoder(channels_innermost(x)))

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance from what the encoder says, (B, 8, H / f, W / f)."""
        mean, log_variance = self.quant_conv(features).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, h, w), unscaled, to pictures (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        y: Tensor = self.decoder(self.post_quant_conv(channels_innermost(z)))
        return y
