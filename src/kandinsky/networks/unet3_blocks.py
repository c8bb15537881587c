"""The blocks of the 3.x U-Net: conditional norms, BigGAN-deep residual blocks, attention.

Sources: Brock et al. 2019, arXiv 1809.11096, appendix B (residual blocks with a bottleneck); Arkhipkin et al.
2023, arXiv 2312.03511, section 3.2.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.networks.group_norm import group_norm
from kandinsky.networks.layers import as_image, by_head, positions
from kandinsky.networks.prepared import Fixed

COMPRESSION = 2
"""The wider side of a residual block over its bottleneck."""
EXPANSION = 4
"""The hidden width of an attention block's two-layer network over its width."""
KERNELS = (1, 3, 3, 1)
"""The sizes of a residual block's four convolutions."""

Resample = Literal["none", "down", "up"]
# Which of the four convolutions changes the size: it doubles before the second, and halves after the third.
_RESAMPLED: dict[Resample, int] = {"up": 1, "down": 2}


@dataclass(frozen=True)
class Sizes:
    """Sizes that all blocks share."""

    time_dim: int
    context_dim: int
    head_dim: int
    groups: int


class ConditionalNorm(nn.Module):
    """Group norm without weights of its own, scaled and shifted by `film` of the time embedding."""

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        self.groups = sizes.groups
        self.film = nn.Linear(sizes.time_dim, 2 * channels)
        self.index = 0

    def forward(self, x: Tensor, fixed: Fixed, silu: bool = False) -> Tensor:
        """x (B, C, h, w); with `silu` that activation follows."""
        return group_norm(x, self.groups, 1e-5, film=fixed.films[self.index], silu=silu)


def _upsampling(channels: int, resample: Resample) -> nn.ConvTranspose2d | None:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2) if resample == "up" else None


def _downsampling(channels: int, resample: Resample) -> nn.Conv2d | None:
    return nn.Conv2d(channels, channels, 2, stride=2) if resample == "down" else None


class Convolution(nn.Module):
    """Norm, activation and a convolution, which may double the size before it or halve it behind it."""

    def __init__(self, channels_in: int, channels: int, kernel: int, sizes: Sizes, resample: Resample) -> None:
        super().__init__()
        self.norm = ConditionalNorm(channels_in, sizes)
        self.upsample = _upsampling(channels_in, resample)
        self.conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2)
        self.downsample = _downsampling(channels, resample)

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        x = self.norm(x, fixed, silu=True)
        x = self.conv(x if self.upsample is None else self.upsample(x))
        return x if self.downsample is None else self.downsample(x)


class Resnet(nn.Module):
    """A residual block of four convolutions through a bottleneck; both branches change the size alike."""

    def __init__(self, channels_in: int, channels: int, sizes: Sizes, resample: Resample = "none") -> None:
        super().__init__()
        hidden = max(channels_in, channels) // COMPRESSION
        widths = (channels_in, hidden, hidden, hidden, channels)
        self.convolutions = nn.ModuleList(
            Convolution(widths[k], widths[k + 1], kernel, sizes, resample if _RESAMPLED.get(resample) == k else "none")
            for k, kernel in enumerate(KERNELS)
        )
        self.upsample = _upsampling(channels_in, resample)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None
        self.downsample = _downsampling(channels, resample)

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        h = x
        for convolution in self.convolutions:
            h = convolution(h, fixed)
        for layer in (self.upsample, self.shortcut, self.downsample):
            x = x if layer is None else layer(x)
        return x + h


class SelfAttention(nn.Module):
    """Attention of all positions over each other; (B, L, C) -> (B, L, C)."""

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        self.heads = channels // sizes.head_dim
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        q, k, v = by_head(self.qkv(x), 3, self.heads)
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class CrossAttention(nn.Module):
    """Attention of all positions over the visible rows of the context; (B, L, C) -> (B, L, C)."""

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        self.heads = channels // sizes.head_dim
        self.q = nn.Linear(channels, channels, bias=False)
        self.context_kv = nn.Linear(sizes.context_dim, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.index = 0

    def context(self, context: Tensor) -> Tensor:
        """Keys and values (2, B, heads, L, d) of a context (B, L, context_dim)."""
        return by_head(self.context_kv(context), 2, self.heads)

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        (q,), (k, v) = by_head(self.q(x), 1, self.heads), fixed.contexts[self.index]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=fixed.visible)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected


class Attention(nn.Module):
    """Attention of one of the two kinds, then a two-layer network on each position; both behind a norm."""

    def __init__(self, channels: int, sizes: Sizes, mixing: SelfAttention | CrossAttention) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels, sizes)
        self.mixing = mixing
        self.norm2 = ConditionalNorm(channels, sizes)
        self.up = nn.Linear(channels, EXPANSION * channels, bias=False)
        self.down = nn.Linear(EXPANSION * channels, channels, bias=False)

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        x = x + as_image(self.mixing(positions(self.norm1(x, fixed)), fixed), x)
        y = self.down(F.silu(self.up(positions(self.norm2(x, fixed)))))
        return x + as_image(y, x)


class AttentionPooling(nn.Module):
    """Pools a context to one vector by attention from the mean of its rows to the visible ones."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.time_dim // sizes.head_dim
        self.q = nn.Linear(sizes.context_dim, sizes.time_dim, bias=False)
        self.context_kv = nn.Linear(sizes.context_dim, 2 * sizes.time_dim, bias=False)
        self.out = nn.Linear(sizes.time_dim, sizes.time_dim, bias=False)

    def forward(self, context: Tensor, visible: Tensor, mean: Tensor) -> Tensor:
        """context (B, L, context_dim), visible (B, 1, 1, L), mean (B, context_dim) -> (B, time_dim)."""
        (q,) = by_head(self.q(mean)[:, None], 1, self.heads)
        k, v = by_head(self.context_kv(context), 2, self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        pooled: Tensor = self.out(mixed.flatten(1))
        return pooled


class Triple(nn.Module):
    """A residual block, optional cross-attention, and a second residual block; going down the second one resamples,
    going up the first."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        channels_out: int,
        sizes: Sizes,
        context: bool,
        resample: Resample = "none",
    ) -> None:
        super().__init__()
        self.first = Resnet(channels_in, channels, sizes, "up" if resample == "up" else "none")
        self.attention = Attention(channels, sizes, CrossAttention(channels, sizes)) if context else None
        self.second = Resnet(channels, channels_out, sizes, "down" if resample == "down" else "none")

    def forward(self, x: Tensor, fixed: Fixed) -> Tensor:
        x = self.first(x, fixed)
        x = x if self.attention is None else self.attention(x, fixed)
        y: Tensor = self.second(x, fixed)
        return y
