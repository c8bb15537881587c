"""The convolutional encoder and decoder that the autoencoders share, with norms that latents may modulate.

Sources: Rombach et al. 2022, arXiv 2112.10752, appendix (the architecture); Zheng et al. 2022, arXiv
2209.09002 (modulated norms).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.networks.group_norm import normed
from kandinsky.networks.layers import as_image, positions

WORTH_FOLDING = 256
"""From this many input positions on, an upsampling's kernel is folded: fewer do not pay for it."""


class Norm(nn.Module):
    """Group norm, scaled and shifted by 1x1 convolutions of the latents where they have `latent_channels`. These
    commute with nearest upsampling, so they run at latent size."""

    def __init__(self, channels: int, groups: int, latent_channels: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.modulation = nn.Conv2d(latent_channels, 2 * channels, 1) if latent_channels else None

    def forward(self, x: Tensor, latents: Tensor | None, silu: bool = False) -> Tensor:
        """x (B, C, h, w); with `silu` that activation follows."""
        modulation = None if self.modulation is None else self.modulation(latents)
        return normed(self.norm, x, modulation=modulation, silu=silu)


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
        q, k, v = self.qkv(positions(self.norm(x, latents))).unsqueeze(1).chunk(3, dim=-1)
        return x + as_image(self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1)), x)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest upsampling and a 3x3 convolution; without gradients, one transposed convolution: 4 products for each
    output in place of 9, some of which see the same input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        plain = type(self.conv) is nn.Conv2d and not torch.is_grad_enabled()
        if plain and x.shape[-2] * x.shape[-1] >= WORTH_FOLDING:
            return F.conv_transpose2d(x, self._folded(), self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]

    def _folded(self) -> Tensor:
        """The kernel (C_in, C_out, 4, 4) of the transposed convolution: sums of rows and columns that meet the same
        input."""
        weight = self.conv.weight
        sums = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32)
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return torch.einsum("ka,lb,oiab->iokl", sums.to(wide), sums.to(wide), wide).to(weight.dtype)


class Level(nn.Module):
    """`layers` residual blocks of one resolution, each with optional attention, then a resampling."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        layers: int,
        groups: int,
        latent_channels: int | None,
        attention: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        widths = (channels_in, *[channels] * layers)
        self.resnets = nn.ModuleList(Resnet(i, o, groups, latent_channels) for i, o in pairwise(widths))
        self.attentions = nn.ModuleList(
            Attention(channels, groups, latent_channels) for _ in range(layers if attention else 0)
        )
        self.resample = resample

    def blocks(self, x: Tensor, latents: Tensor | None) -> Tensor:
        """The residual blocks and attentions, on x (B, C, h, w)."""
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


@dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder or a decoder; `images` and `features` are the channels at its ends, `channels` run from the
    full resolution to the features'. With `attention` the residual blocks of the lowest resolution attend too."""

    images: int
    features: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    attention: bool


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, F, H / f, W / f)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels, groups, last = sizes.channels, sizes.groups, len(sizes.channels) - 1
        self.conv_in = nn.Conv2d(sizes.images, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, c) in enumerate(pairwise((channels[0], *channels))):
            resample, attended = Downsample(c) if i < last else None, sizes.attention and i == last
            self.down.append(Level(before, c, sizes.layers, groups, None, attended, resample))
        self.mid = Middle(channels[-1], groups, None)
        self.norm_out = Norm(channels[-1], groups, None)
        self.conv_out = nn.Conv2d(channels[-1], sizes.features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x, None)
        return self.conv_out(self.norm_out(self.mid(x, None), None, silu=True))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Features (B, F, h, w) to images (B, 3, h f, w f); norms are modulated where there are `latent_channels`."""

    def __init__(self, sizes: Sizes, latent_channels: int | None = None) -> None:
        super().__init__()
        channels, groups, last = sizes.channels, sizes.groups, len(sizes.channels) - 1
        self.conv_in = nn.Conv2d(sizes.features, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], groups, latent_channels)
        self.up = nn.ModuleList()
        for i, (before, c) in enumerate(pairwise((channels[-1], *reversed(channels)))):
            resample, attended = Upsample(c) if i < last else None, sizes.attention and i == 0
            level = Level(before, c, sizes.layers + 1, groups, latent_channels, attended, resample)
            self.up.append(level)
        self.norm_out = Norm(channels[0], groups, latent_channels)
        self.conv_out = nn.Conv2d(channels[0], sizes.images, 3, padding=1)

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        x = self.mid(self.conv_in(x), latents)
        for level in self.up:
            x = level(x, latents)
        return self.conv_out(self.norm_out(x, latents, silu=True))  # type: ignore[no-any-return]


class AutoencoderConfig(Protocol):
    """The common part of autoencoders' configurations."""

    @property
    def downscale(self) -> int: ...


class Autoencoder(Protocol):
    """Images (B, 3, H, W) in [-1, 1] <-> latents; `encode` returns these, or a posterior's mean and log-variance, which
    `read` computes from the output of `encoder`."""

    encoder: Encoder
    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d
    decoder: Decoder

    @property
    def config(self) -> AutoencoderConfig: ...

    def encode(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]: ...

    def read(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Quantized:
    """Nearest codes of latents: `latents` (B, C, h, w) with straight-through gradient, `indices` (B, h, w),
    `codebook_loss` and `commitment_loss` scalars (van den Oord et al. 2017, eq. 3)."""

    latents: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class CodebookAutoencoder(Autoencoder, Protocol):
    """An autoencoder whose latents can be replaced by codes."""

    def encode(self, x: Tensor) -> Tensor: ...

    @property
    def required_codebook(self) -> nn.Embedding: ...

    def quantize(self, z: Tensor) -> Quantized: ...
