"""The U-Net of the 2.x generations: residual blocks with scale-shift times, and added-key attention.

Lineage: guided diffusion (Dhariwal and Nichol 2021, arXiv 2105.05233) with the context keys of GLIDE
(Nichol et al. 2021, arXiv 2112.10741, section 3).
"""

from collections.abc import Collection, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.networks.deep_cache import DeepFeatures, denoise
from kandinsky.networks.group_norm import normed
from kandinsky.networks.layers import as_image, by_head, positions, sinusoid
from kandinsky.networks.prepared import Fixed, PreparedNetwork, assign_indices, prepare_unet
from kandinsky.networks.unet2_conditioning import (
    CONDITIONINGS,
    ConditionKind,
    HintEncoder,
    UNet2Condition,
    UNet2Config,
    given,
)

__all__ = ["ConditionKind", "HintEncoder", "UNet2", "UNet2Condition", "UNet2Config"]


class Resnet(nn.Module):
    """A residual block; `resample` halves ("down") or doubles ("up") the size without weights of its own."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        time_dim: int,
        groups: int,
        resample: Literal["none", "down", "up"] = "none",
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=1e-5)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.film = nn.Linear(time_dim, 2 * channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else None
        self.resample = resample
        self.index = 0

    def _resized(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """x (B, C, h, w); film (B, 2 C') = scale, then shift."""
        h = self._resized(normed(self.norm1, x, silu=True))
        x = self._resized(x)
        h = self.conv2(normed(self.norm2, self.conv1(h), film=film, silu=True))
        y: Tensor = h + (x if self.shortcut is None else self.shortcut(x))
        return y


class Attention(nn.Module):
    """Attention of all positions over the context's keys, then their own."""

    def __init__(self, channels: int, config: UNet2Config) -> None:
        super().__init__()
        self.index = 0
        self.heads = channels // config.head_dim
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(config.context_dim, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def context(self, tokens: Tensor) -> Tensor:
        """Keys and values (2, B, heads, L, d) of the context tokens (B, L, context_dim)."""
        return by_head(self.context_kv(tokens), 2, self.heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        qkv = by_head(self.qkv(positions(normed(self.norm, x))), 3, self.heads)
        keys, values = torch.cat([context, qkv[1:]], dim=3)
        mixed = F.scaled_dot_product_attention(qkv[0], keys, values)
        return x + as_image(self.out(mixed.transpose(1, 2).flatten(2)), x)


class Level(nn.Module):
    """The blocks of one resolution: residual ones, each with optional attention, and a resampling one."""

    def __init__(
        self,
        widths: list[tuple[int, int]],
        config: UNet2Config,
        attention: bool,
        resample: Literal["none", "down", "up"],
    ) -> None:
        super().__init__()
        time_dim, groups = config.time_dim, config.groups
        self.resnets = nn.ModuleList(Resnet(i, o, time_dim, groups) for i, o in widths)
        self.attentions = nn.ModuleList(Attention(o, config) for _, o in (widths if attention else []))
        last = widths[-1][1]
        self.resample = None if resample == "none" else Resnet(last, last, time_dim, groups, resample)

    def down(self, h: Tensor, fixed: Fixed) -> list[Tensor]:
        """The outputs of its blocks on the way down, which are skip connections too."""
        found = []
        for j in range(len(self.resnets)):
            h = self._block(j, h, fixed)
            found.append(h)
        return found

    def up(self, h: Tensor, skips: list[Tensor], fixed: Fixed) -> Tensor:
        """The output of its blocks on the way up, which take the last of `skips` away."""
        for j in range(len(self.resnets)):
            h = self._block(j, torch.cat([h, skips.pop()], dim=1), fixed)
        return h

    def _block(self, j: int, h: Tensor, fixed: Fixed) -> Tensor:
        block = cast(Resnet, self.resnets[j])
        h = block(h, fixed.films[block.index])
        if self.attentions:
            attention = cast(Attention, self.attentions[j])
            h = attention(h, fixed.contexts[attention.index])
        return h


class Middle(nn.Module):
    def __init__(self, channels: int, config: UNet2Config) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, config.time_dim, config.groups) for _ in range(2))
        self.attention = Attention(channels, config)

    def forward(self, h: Tensor, fixed: Fixed) -> Tensor:
        first, second = (cast(Resnet, resnet) for resnet in self.resnets)
        h = self.attention(first(h, fixed.films[first.index]), fixed.contexts[self.attention.index])
        y: Tensor = second(h, fixed.films[second.index])
        return y


class UNet2(nn.Module):
    """The 2.x U-Net: latents (B, in_channels, h, w) and times (B,) to (B, out_channels, h, w)."""

    def __init__(self, config: UNet2Config) -> None:
        super().__init__()
        self.config = config
        channels, last = config.channels, len(config.channels) - 1
        self.time_mlp = nn.Sequential(
            nn.Linear(channels[0], config.time_dim), nn.SiLU(), nn.Linear(config.time_dim, config.time_dim)
        )
        self.conditioning = CONDITIONINGS[config.condition](config)
        self.hint = HintEncoder() if config.condition == "image_hint" else None
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels[0], [channels[0]]
        for i, c in enumerate(channels):
            widths = [(width if j == 0 else c, c) for j in range(config.layers)]
            self.down.append(Level(widths, config, i > 0, "down" if i < last else "none"))
            skips += [c] * (config.layers + (i < last))
            width = c
        self.mid = Middle(width, config)
        for i, c in reversed(list(enumerate(channels))):
            widths = []
            for _ in range(config.layers + 1):
                widths.append((width + skips.pop(), c))
                width = c
            self.up.append(Level(widths, config, i > 0, "up" if i > 0 else "none"))
        self.norm_out = nn.GroupNorm(config.groups, width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, config.out_channels, 3, padding=1)
        self._resnets = [m for m in self.modules() if isinstance(m, Resnet)]
        self._attentions = [m for m in self.modules() if isinstance(m, Attention)]
        self.film_width = sum(resnet.film.out_features for resnet in self._resnets)
        assign_indices(self._resnets)
        assign_indices(self._attentions)

    def initialise(self) -> None:
        """Zeroes the last layer of each residual branch and of the network, as for training from scratch
        (Dhariwal and Nichol 2021, appendix)."""
        last: list[nn.Conv2d | nn.Linear] = [self.conv_out]
        last += [resnet.conv2 for resnet in self._resnets]
        last += [attention.out for attention in self._attentions]
        for layer in last:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def request_modules(self) -> list[nn.Module]:
        """The modules that only `prepare` calls."""
        films = [resnet.film for resnet in self._resnets]
        contexts = [attention.context_kv for attention in self._attentions]
        hints = [] if self.hint is None else [self.hint]
        return [self.conditioning, self.time_mlp, *hints, *films, *contexts]

    def embed_times(self, t: Tensor) -> Tensor:
        """Times (B,), 0..999 and possibly fractional, to (B, time_dim)."""
        return self.time_mlp(sinusoid(t, self.config.channels[0]).to(self.conv_in.weight.dtype))  # type: ignore[no-any-return]

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]:
        """The residual blocks' scales and shifts, each (T, B, 2 C), at times (T,) for pooled (B, D)."""
        emb = F.silu(self.embed_times(t)[:, None] + pooled)
        return [resnet.film(emb) for resnet in self._resnets]

    def extra_channels(self, condition: UNet2Condition) -> list[Tensor]:
        """The channels behind the latents."""
        extras = [] if condition.extra is None else [condition.extra]
        if self.hint is not None:
            extras.append(self.hint(given(condition.hint, "hint")))
        return extras

    def forward(self, x: Tensor, t: Tensor, condition: UNet2Condition) -> Tensor:
        """x (B, 4, h, w), t (B,) and the condition to (B, out_channels, h, w): noise, then variance."""
        tokens, pooled = self.conditioning(condition)
        emb = F.silu(self.embed_times(t) + pooled)
        fixed = Fixed([r.film(emb) for r in self._resnets], [a.context(tokens) for a in self._attentions])
        return self.denoise(torch.cat([x, *self.extra_channels(condition)], dim=1), fixed)

    def prepare(
        self, condition: UNet2Condition, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Fixed]:
        """Computes once what does not change between steps: context keys and values, FiLM tables of all `times`, hint
        and inpainting channels. With `deep_at` deep features are reused, see `DeepFeatures`."""
        deep = DeepFeatures.of(deep_at, self.config.channels)
        tokens, pooled = self.conditioning(condition)
        contexts = [attention.context(tokens) for attention in self._attentions]
        return prepare_unet(self, pooled, contexts, times, self.extra_channels(condition), deep=deep)

    def denoise(self, x: Tensor, fixed: Fixed) -> Tensor:
        """The blocks, on latents with their extra channels."""
        return denoise(self, x, fixed)

    def begin(self, x: Tensor, fixed: Fixed) -> tuple[Tensor, list[Tensor]]:
        """See `TwoDepths`."""
        h: Tensor = self.conv_in(x)
        found = cast(Level, self.down[0]).down(h, fixed)
        return found[-1], [h, *found]

    def deep(self, h: Tensor, fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        skips: list[Tensor] = []
        for i, level in enumerate(cast("list[Level]", list(self.down))):
            if i > 0:
                skips += level.down(h, fixed)
                h = skips[-1]
            if level.resample is not None:
                h = level.resample(h, fixed.films[level.resample.index])
                skips.append(h)
        h = self.mid(h, fixed)
        for level in cast("list[Level]", list(self.up)[:-1]):
            h = level.up(h, skips, fixed)
            if level.resample is not None:
                h = level.resample(h, fixed.films[level.resample.index])
        return h

    def finish(self, h: Tensor, skips: list[Tensor], fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        h = cast(Level, self.up[-1]).up(h, skips, fixed)
        y: Tensor = self.conv_out(normed(self.norm_out, h, silu=True))
        return y
