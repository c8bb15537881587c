"""The U-Net of the 3.x generations: BigGAN-deep blocks, conditioned on a text by norms and cross-attention.

Source: Arkhipkin et al. 2023, arXiv 2312.03511, section 3.2.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.networks.deep_cache import DeepFeatures, denoise
from kandinsky.networks.group_norm import normed
from kandinsky.networks.layers import check_divides, sinusoid
from kandinsky.networks.prepared import Fixed, PreparedNetwork, assign_indices, prepare_unet
from kandinsky.networks.unet3_blocks import (
    Attention,
    AttentionPooling,
    ConditionalNorm,
    CrossAttention,
    Resample,
    SelfAttention,
    Sizes,
    Triple,
)

MaskedRows = Literal["zero_states", "zero_context"]
"""The context where a text is masked: projected zeros, or zeros in place of the projection."""


@dataclass(frozen=True)
class UNet3Config:
    """Sizes of a 3.x U-Net, by default the published ones.

    Each level has `layers` triples of residual block, attention and residual block; the first has no attention.
    `text_dim` is the width of the text encoder's states, `context_dim` that of their projection. `null_embedding` is
    whether the network has a learned context for "no text", as those of original files. Raises ConfigError for sizes
    that do not go together.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (384, 768, 1536, 3072)
    layers: int = 3
    time_dim: int = 1536
    head_dim: int = 64
    context_dim: int = 4096
    text_dim: int = 4096
    groups: int = 32
    null_embedding: bool = False

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ConfigError(f"A level of {self.layers} layers cannot be built.", "Give at least 2.")
        check_divides(f"{self.groups} groups", 2 * self.groups, self.channels, "half of {} channels")
        wide = (self.time_dim, *self.channels)
        check_divides(f"Heads of width {self.head_dim}", self.head_dim, wide, "a width of {}")

    @property
    def stem(self) -> int:
        """Channels behind the first convolution and before the last."""
        return self.channels[0] // 2

    @property
    def multiple(self) -> int:
        """Height and width of the latents must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class UNet3Condition:
    """The condition of a 3.x U-Net, one row an image.

    `hidden` (B, L, text_dim) are a text encoder's states, `mask` (B, L) is 1 on tokens. `lengths` (B,) counts the rows
    of each text, its masked ones included (None: all L); further rows fill the batch. `masked_rows` is how the context
    is filled where the mask is 0: with the projection of "zero_states", or as "zero_context". `null` (B,) is true where
    the learned null embedding replaces the text, as its only visible row. `extra` (B, c, h, w) are an inpainting
    network's mask and known latents.
    """

    hidden: Tensor
    mask: Tensor
    lengths: Tensor | None = None
    masked_rows: MaskedRows = "zero_states"
    null: Tensor | None = None
    extra: Tensor | None = None

    @property
    def own(self) -> Tensor:
        """The rows of each text, a mask (B, L)."""
        places = torch.arange(self.hidden.shape[1], device=self.hidden.device)[None]
        ends = self.hidden.shape[1] if self.lengths is None else self.lengths.to(places.device)[:, None]
        return (places < ends).expand(len(self.hidden), -1)

    @property
    def nulls(self) -> Tensor:
        """The rows of the batch without text, a mask (B,)."""
        return self.hidden.new_zeros(len(self.hidden), dtype=torch.bool) if self.null is None else self.null

    def joined(self, other: "UNet3Condition") -> "UNet3Condition":
        """The rows of this condition, then those of `other`, of any length; ConfigError for different `masked_rows`."""
        if self.masked_rows != other.masked_rows:
            raise ConfigError(
                f"Conditions with masked_rows = {self.masked_rows!r} and {other.masked_rows!r} do not go together.",
                "Give both the same.",
            )
        both = (self, other)
        length = max(condition.hidden.shape[1] for condition in both)

        def longer(tensor: Tensor) -> Tensor:
            return F.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, length - tensor.shape[1]])

        extras = [condition.extra for condition in both if condition.extra is not None]
        return UNet3Condition(
            torch.cat([longer(condition.hidden) for condition in both]),
            torch.cat([longer(condition.mask) for condition in both]),
            torch.cat([condition.own.sum(1) for condition in both]),
            self.masked_rows,
            torch.cat([condition.nulls for condition in both]),
            torch.cat(extras) if len(extras) == len(both) else None,
        )


class TextProjection(nn.Module):
    """A text encoder's states as a context: (B, L, text_dim) -> (B, L, context_dim)."""

    def __init__(self, text_dim: int, context_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, context_dim, bias=False)
        self.norm = nn.LayerNorm(context_dim)

    def forward(self, hidden: Tensor, mask: Tensor, masked_rows: MaskedRows) -> Tensor:
        """`mask` (B, L) is true on tokens."""
        if masked_rows == "zero_states":
            hidden = torch.where(mask[..., None], hidden, 0)
        context: Tensor = self.norm(self.linear(hidden))
        return torch.where(mask[..., None], context, 0) if masked_rows == "zero_context" else context


def read_condition(
    condition: UNet3Condition, project: Callable[[Tensor, Tensor, MaskedRows], Tensor], null_embedding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The context (B, L, context_dim), which `project` makes as a `TextProjection` does, its visible rows (B, 1, 1, L)
    and the mean of its rows (B, context_dim); ConfigError for a null condition without a null embedding."""
    own, mask = condition.own, condition.mask.bool()
    context = project(condition.hidden, mask, condition.masked_rows)
    if condition.null is not None and bool(condition.null.any()):
        if null_embedding is None:
            raise ConfigError("This network has no null embedding.", "Give the states of an empty text, or zeros.")
        first = torch.zeros_like(mask)
        first[:, 0] = True
        nulls = condition.null.to(mask.device)[:, None]
        nothing = torch.where(first[..., None], null_embedding.to(context.dtype), 0)
        context = torch.where(nulls[..., None], nothing, context)
        mask = torch.where(nulls, first, mask)
    # A softmax over masked rows only weighs them alike.
    visible = own & (mask | ~(mask & own).any(1, keepdim=True))
    # Published networks take the mean over masked rows too.
    mean = torch.where(own[..., None], context, 0).sum(1) / own.sum(1, keepdim=True)
    return context, visible[:, None, None], mean


class Level(nn.Module):
    """One resolution: triples, and self-attention, first on the way down and last on the way up. The `outermost` has
    none."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int, int]],
        attended: int,
        sizes: Sizes,
        outermost: bool,
        resamples: Sequence[Resample],
    ) -> None:
        super().__init__()
        self.attention = None if outermost else Attention(attended, sizes, SelfAttention(attended, sizes))
        self.triples = nn.ModuleList(
            Triple(*width, sizes, not outermost, resample) for width, resample in zip(widths, resamples, strict=True)
        )

    def down(self, x: Tensor, fixed: Fixed) -> Tensor:
        """x (B, C, h, w) on the way down."""
        x = x if self.attention is None else self.attention(x, fixed)
        for triple in self.triples:
            x = triple(x, fixed)
        return x

    def up(self, x: Tensor, fixed: Fixed) -> Tensor:
        """x (B, C, h, w) on the way up, with the skip connection behind its channels."""
        for triple in self.triples:
            x = triple(x, fixed)
        return x if self.attention is None else self.attention(x, fixed)


def _down_level(config: UNet3Config, level: int, sizes: Sizes) -> Level:
    width, c = (config.stem, *config.channels)[level], config.channels[level]
    resample: Resample = "down" if level < len(config.channels) - 1 else "none"
    return Level(
        [(width, c, c), *[(c, c, c)] * (config.layers - 1)],
        width,
        sizes,
        level == 0,
        [*["none"] * (config.layers - 1), resample],  # type: ignore[list-item]
    )


def _up_level(config: UNet3Config, level: int, sizes: Sizes) -> Level:
    width, c = (config.stem, *config.channels)[level], config.channels[level]
    deepest = level == len(config.channels) - 1
    # The first triple keeps the channels from the way down until its second residual block.
    first = c if deepest else 2 * c
    return Level(
        [(first, first, c), *[(c, c, c)] * (config.layers - 2), (c, c, width)],
        width,
        sizes,
        level == 0,
        ["none" if deepest else "up", *["none"] * (config.layers - 1)],  # type: ignore[list-item]
    )


class UNet3(nn.Module):
    """The 3.x U-Net: latents (B, in_channels, h, w) and times (B,) to noise (B, out_channels, h, w)."""

    def __init__(self, config: UNet3Config) -> None:
        super().__init__()
        self.config = config
        sizes = Sizes(config.time_dim, config.context_dim, config.head_dim, config.groups)
        self.time_mlp = nn.Sequential(
            nn.Linear(config.stem, config.time_dim), nn.SiLU(), nn.Linear(config.time_dim, config.time_dim)
        )
        self.projection = TextProjection(config.text_dim, config.context_dim)
        self.null_embedding = nn.Parameter(torch.zeros(config.context_dim)) if config.null_embedding else None
        self.pooling = AttentionPooling(sizes)
        self.conv_in = nn.Conv2d(config.in_channels, config.stem, 3, padding=1)
        levels = range(len(config.channels))
        self.down = nn.ModuleList(_down_level(config, level, sizes) for level in levels)
        self.up = nn.ModuleList(_up_level(config, level, sizes) for level in reversed(levels))
        self.norm_out = nn.GroupNorm(config.groups, config.stem, eps=1e-5)
        self.conv_out = nn.Conv2d(config.stem, config.out_channels, 3, padding=1)
        self._norms = [m for m in self.modules() if isinstance(m, ConditionalNorm)]
        self._attentions = [m for m in self.modules() if isinstance(m, CrossAttention)]
        self.film_width = sum(norm.film.out_features for norm in self._norms)
        assign_indices(self._norms)
        assign_indices(self._attentions)

    def initialise(self) -> None:
        """Zeroes the conditional norms' modulation, for training from scratch."""
        for norm in self._norms:
            nn.init.zeros_(norm.film.weight)
            nn.init.zeros_(norm.film.bias)

    def request_modules(self) -> list[nn.Module]:
        """The modules that only `prepare` calls: more than a third of all parameters at the published sizes."""
        films = [norm.film for norm in self._norms]
        contexts = [attention.context_kv for attention in self._attentions]
        return [self.projection, self.time_mlp, self.pooling, *films, *contexts]

    def embed_times(self, t: Tensor) -> Tensor:
        """Times (B,), 0..999 and possibly fractional, to (B, time_dim)."""
        # The code that trained null embeddings rounds angles in this order, diffusers in the other.
        ratio_first = self.config.null_embedding
        features = sinusoid(t, self.config.stem, sines_first=True, inclusive=True, ratio_first=ratio_first)
        return self.time_mlp(features.to(self.conv_in.weight.dtype))  # type: ignore[no-any-return]

    def read(self, condition: UNet3Condition) -> tuple[Tensor, Tensor, Tensor]:
        """The context (B, L, context_dim), its visible rows (B, 1, 1, L), and their pooled vector (B, time_dim);
        ConfigError for a null condition where the network has no null embedding."""
        context, visible, mean = read_condition(condition, self.projection, self.null_embedding)
        return context, visible, self.pooling(context, visible, mean)

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]:
        """The conditional norms' scales and shifts, each (T, B, 2 C), at times (T,) for pooled (B, D)."""
        emb = F.silu(self.embed_times(t)[:, None] + pooled)
        return [norm.film(emb) for norm in self._norms]

    def forward(self, x: Tensor, t: Tensor, condition: UNet3Condition) -> Tensor:
        """x (B, C, h, w), t (B,) and the condition to noise (B, out_channels, h, w)."""
        context, visible, pooled = self.read(condition)
        emb = F.silu(self.embed_times(t) + pooled)
        fixed = Fixed([norm.film(emb) for norm in self._norms], [a.context(context) for a in self._attentions], visible)
        x = x if condition.extra is None else torch.cat([x, condition.extra], dim=1)
        return self.denoise(x, fixed)

    def prepare(
        self, condition: UNet3Condition, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Fixed]:
        """Computes once what does not change between steps: context keys and values, and all norms' scales and shifts
        at `times`. With `deep_at` deep features are reused, see `DeepFeatures`."""
        deep = DeepFeatures.of(deep_at, self.config.channels)
        context, visible, pooled = self.read(condition)
        contexts = [attention.context(context) for attention in self._attentions]
        extra = [] if condition.extra is None else [condition.extra]
        return prepare_unet(self, pooled, contexts, times, extra, visible, deep)

    def denoise(self, x: Tensor, fixed: Fixed) -> Tensor:
        """The blocks, on latents with their extra channels."""
        return denoise(self, x, fixed)

    def begin(self, x: Tensor, fixed: Fixed) -> tuple[Tensor, list[Tensor]]:
        """See `TwoDepths`."""
        h = cast(Level, self.down[0]).down(self.conv_in(x), fixed)
        return h, [h] if len(self.down) > 1 else []

    def deep(self, h: Tensor, fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        skips: list[Tensor] = []
        for level in list(self.down)[1:]:
            h = cast(Level, level).down(h, fixed)
            skips.append(h)
        for depth, level in enumerate(list(self.up)[:-1]):
            # The deepest level's own way down is what its way up begins with.
            skip = skips.pop()
            h = cast(Level, level).up(h if depth == 0 else torch.cat([h, skip], dim=1), fixed)
        return h

    def finish(self, h: Tensor, skips: list[Tensor], fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        h = cast(Level, self.up[-1]).up(torch.cat([h, *skips], dim=1) if skips else h, fixed)
        y: Tensor = self.conv_out(normed(self.norm_out, h, silu=True))
        return y
