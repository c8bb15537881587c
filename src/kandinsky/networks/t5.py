"""The encoder half of T5 in its gated form: relative position bias, root-mean-square norms, no biases.

Sources: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", section 2.1; Shazeer 2020, "GLU Variants Improve Transformer" (the gated layers).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError

GateName = Literal["gelu_tanh", "silu"]
Before = Callable[[Sequence[nn.Module]], None]
HEADROOM = 256.0
"""The factor by which a block's sums may leave the range of half precision."""


@dataclass(frozen=True)
class T5Config:
    """Sizes of an encoder; `head_dim` is free of the width.

    `buckets` are the classes of token distances, half of them for each side; distances from `max_distance` on share the
    last. Raises ConfigError for fewer than four buckets or too small a `max_distance`.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    head_dim: int
    mlp_width: int
    gate: GateName
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 4:
            raise ConfigError(
                f"{self.buckets} buckets do not cover distances up to {self.max_distance}.",
                "Choose an even number of at least 4, and a distance above a quarter of it.",
            )


def distance_buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each key seen from each query, (L, L) in [0, buckets), on the CPU: the upper half is for keys to
    the right; near distances have a bucket each, far ones share theirs on a logarithmic scale (Raffel et al. 2020,
    section 2.1)."""
    # On the CPU: another device may round a distance at a border into the next bucket.
    places = torch.arange(length, device="cpu")
    offset = places[None, :] - places[:, None]
    side = buckets // 2
    near = side // 2
    distance = offset.abs()
    # In float32 and in this order: at the borders of buckets the rounding decides, and weights were trained
    # on what it decided.
    share = torch.log(distance.float() / near) / math.log(max_distance / near) * (side - near)
    far = (near + share.clamp(min=0).to(torch.long)).clamp(max=side - 1)
    return torch.where(distance < near, distance, far) + side * (offset > 0)


class RmsNorm(nn.Module):
    """x / root mean square of x, times a weight, on the last axis (Zhang and Sennrich 2019, eq. 4); statistics in at
    least float32, the result in the weight's type."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        scaled = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        y: Tensor = self.weight * scaled.to(self.weight.dtype)
        return y


class Block(nn.Module):
    """A pre-norm block of attention and a gated two-layer network; (B, L, W) -> (B, L, W).

    Matrices are not fused, so that a large encoder can stay mapped from its file, and be moved one block at a time.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.gelu = config.gate == "gelu_tanh"
        self.norm1 = RmsNorm(config.width, config.eps)
        self.q = nn.Linear(config.width, inner, bias=False)
        self.k = nn.Linear(config.width, inner, bias=False)
        self.v = nn.Linear(config.width, inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        self.norm2 = RmsNorm(config.width, config.eps)
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, L, W); `bias` (1 or B, heads, L, L) is added to the logits, which T5 does not scale."""
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        gate = self.gate(y)
        opened = F.gelu(gate, approximate="tanh") if self.gelu else F.silu(gate)
        # The product and its sums leave the range of float16; by a power of two they are scaled exactly.
        sums = self.down(opened / HEADROOM * self.up(y))
        z: Tensor = x + sums.to(x.dtype) * HEADROOM
        return z


class T5Encoder(nn.Module):
    """The text encoder: ids and mask (B, L) -> hidden states (B, L, W), in the type of the weights."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.width, config.eps)

    def forward(self, ids: Tensor, mask: Tensor, before: Before | None = None) -> Tensor:
        """ids (B, L) in [0, vocab_size), mask (B, L) with 1 on real tokens -> hidden states (B, L, W). Masked tokens
        are not attended to; their own states are computed. `before` is called with the modules that run next, one layer
        at a time."""
        announce = before or (lambda _: None)
        announce([self.tokens, self.distances])
        x, bias = self.embed(ids), self.bias(mask)
        for block in self.blocks:
            announce([block])
            x = block(x, bias)
        announce([self.norm])
        y: Tensor = self.norm(x)
        return y

    def embed(self, ids: Tensor) -> Tensor:
        """The input of the first block, (B, L, W): at least float32, for the blocks' sum outgrows half precision."""
        x: Tensor = self.tokens(ids)
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def bias(self, mask: Tensor) -> Tensor:
        """The bias of all logits, (B, heads, L, L): that of distances; padding is hidden."""
        length = mask.shape[1]
        table = distance_buckets(length, self.config.buckets, self.config.max_distance).to(mask.device)
        bias: Tensor = self.distances(table).permute(2, 0, 1)[None]
        return bias.masked_fill(mask[:, None, None, :] == 0, torch.finfo(bias.dtype).min)
