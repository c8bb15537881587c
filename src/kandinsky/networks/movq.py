"""MoVQ: an autoencoder whose decoder norms are modulated by the latents.

The diffusion models work on its unquantised, unscaled latents; its codebook only serves its own training.
Source: Zheng et al. 2022, arXiv 2209.09002.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.networks.group_norm import group_norm
from kandinsky.networks.layers import channels_innermost

WORTH_FOLDING = 256
"""From this many input pixels on, an upsampling's kernel is folded: fewer do not pay for it."""
DECODER_GROUPS = 32  # the published decoder norms have 32 groups whatever the configuration says


@dataclass(frozen=True)
class MoVQConfig:
    """Sizes of a MoVQ; the defaults are the published 67.8 M one.

    `codebook_size` may be 0: encoding and decoding need no codebook, and not every file has one. Raises
    ConfigError when groups do not divide the channels.
    """

    channels: tuple[int, ...] = (128, 256, 256, 512)
    layers: int = 2
    image_channels: int = 3
    latent_channels: int = 4
    codebook_size: int = 16384
    codebook_dim: int = 4
    groups: int = 32

    def __post_init__(self) -> None:
        for groups in (self.groups, DECODER_GROUPS):
            if wrong := [width for width in self.channels if width % groups]:
                raise ConfigError(f"{groups} groups do not divide {wrong[0]} channels.", "Choose a multiple.")

    @property
    def downscale(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class Quantized:
    """Nearest codes of latents: `latents` (B, C, h, w) with straight-through gradient, `indices` (B, h, w),
    `codebook_loss` and `commitment_loss` scalars (van den Oord et al. 2017, eq. 3)."""

    latents: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Norm(nn.Module):
    """Group norm, in the decoder scaled and shifted by 1x1 convolutions of the latents.

    A 1x1 convolution commutes with nearest upsampling, so it is applied at latent size.
    """

    def __init__(self, channels: int, groups: int, latent_channels: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.modulation = nn.Conv2d(latent_channels, 2 * channels, 1) if latent_channels else None

    def forward(self, x: Tensor, latents: Tensor | None, silu: bool = False) -> Tensor:
        """x (B, C, h, w); with `silu` that activation follows."""
        norm = self.norm
        modulation = None if self.modulation is None else self.modulation(latents)
        return group_norm(
            x, norm.num_groups, norm.eps, norm.weight, norm.bias, modulation=modulation, silu=silu
        )


class Resnet(nn.Module):
    def __init__(self, channels_in: int, channels: int, groups: int, latent_channels: int | None) -> None:
        super().__init__()
        self.norm1 = Norm(channels_in, groups, latent_channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = Norm(channels, groups, latent_channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, x: Tensor, latents: Tensor | None) -> Tensor:
        h = self.conv1(self.norm1(x, latents, silu=True))
        h = self.conv2(self.norm2(h, latents, silu=True))
        y: Tensor = h + (x if self.shortcut is None else self.shortcut(x))
        return y


class Attention(nn.Module):
    """Self-attention over all positions with one head of the full width."""

    def __init__(self, channels: int, groups: int, latent_channels: int | None) -> None:
        super().__init__()
        self.norm = Norm(channels, groups, latent_channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, latents: Tensor | None) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.norm(x, latents).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unsqueeze(1).chunk(3, dim=-1)
        mixed = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1))
        y: Tensor = x + mixed.transpose(1, 2).reshape(b, c, h, w)
        return y


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest upsampling and a 3x3 convolution, where it is worth it as one transposed convolution.

    Each output pixel then costs 4 products in place of 9, since some of the 9 see the same input pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        plain = type(self.conv) is nn.Conv2d and x.device.type == "cpu" and not torch.is_grad_enabled()
        if plain and x.shape[-2] * x.shape[-1] >= WORTH_FOLDING:
            return F.conv_transpose2d(x, self._folded(), self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]

    def _folded(self) -> Tensor:
        """The kernel (C_in, C_out, 4, 4) of the transposed convolution: sums of the own one's rows and
        columns that meet the same input pixel."""
        weight = self.conv.weight
        sums = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return torch.einsum("ka,lb,oiab->iokl", sums.to(wide), sums.to(wide), wide).to(weight.dtype)


class Level(nn.Module):
    """Residual blocks of one resolution, attention after each where asked for, then a resampling."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        groups: int,
        latent_channels: int | None,
        attention: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(i, o, groups, latent_channels) for i, o in widths)
        self.attentions = nn.ModuleList(
            Attention(o, groups, latent_channels) for _, o in (widths if attention else [])
        )
        self.resample = resample

    def blocks(self, x: Tensor, latents: Tensor | None) -> Tensor:
        """What comes before the resampling, on x (B, C, h, w)."""
        for position, resnet in enumerate(self.resnets):
            x = resnet(x, latents)
            if self.attentions:
                x = self.attentions[position](x, latents)
        return x

    def forward(self, x: Tensor, latents: Tensor | None) -> Tensor:
        x = self.blocks(x, latents)
        return x if self.resample is None else self.resample(x)


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int, latent_channels: int | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups, latent_channels) for _ in range(2))
        self.attention = Attention(channels, groups, latent_channels)

    def forward(self, x: Tensor, latents: Tensor | None) -> Tensor:
        x = self.attention(self.resnets[0](x, latents), latents)
        return self.resnets[1](x, latents)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        channels, last = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.image_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = channels[0]
        for i, c in enumerate(channels):
            widths = [(width if j == 0 else c, c) for j in range(config.layers)]
            self.down.append(
                Level(widths, config.groups, None, i == last, Downsample(c) if i < last else None)
            )
            width = c
        self.mid = Middle(width, config.groups, None)
        self.norm_out = Norm(width, config.groups, None)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, None)
        return self.conv_out(self.norm_out(self.mid(x, None), None, silu=True))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        channels, last = config.channels[::-1], len(config.channels) - 1
        latent = config.codebook_dim
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid = Middle(channels[0], DECODER_GROUPS, latent)
        self.up = nn.ModuleList()
        width = channels[0]
        for i, c in enumerate(channels):
            widths = [(width if j == 0 else c, c) for j in range(config.layers + 1)]
            self.up.append(Level(widths, DECODER_GROUPS, latent, i == 0, Upsample(c) if i < last else None))
            width = c
        self.norm_out = Norm(width, DECODER_GROUPS, latent)
        self.conv_out = nn.Conv2d(width, config.image_channels, 3, padding=1)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x), latents)
        for level in self.up:
            x = level(x, latents)
        return self.conv_out(self.norm_out(x, latents, silu=True))  # type: ignore[no-any-return]


class MoVQ(nn.Module):
    """The autoencoder: pictures (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H / f, W / f), f = downscale."""

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        size = config.codebook_size
        self.codebook = nn.Embedding(size, config.codebook_dim) if size else None
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], sides multiples of f, to latents (B, 4, H / f, W / f)."""
        return self.quant_conv(self.encoder(channels_innermost(x)))  # type: ignore[no-any-return]

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, h, w), quantised or not, to pictures (B, 3, h * f, w * f), not clamped."""
        z = channels_innermost(z)
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
        return Quantized(
            straight_through, indices.view(z.shape[0], *z.shape[2:]), codebook_loss, commitment_loss
        )
