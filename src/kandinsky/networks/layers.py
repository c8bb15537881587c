"""The few layers that several transformers share: sinusoidal times, fused attention, the pre-norm block."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError

ActivationName = Literal["gelu", "quick_gelu", "silu"]


def check_divides(what: str, divisor: int, widths: Iterable[int], of: str = "{} channels") -> None:
    """Raises ConfigError for the first of `widths` that `divisor`, which `what` names, does not divide."""
    if wrong := [width for width in widths if divisor < 1 or width % divisor]:
        raise ConfigError(f"{what} do not divide {of.format(wrong[0])}.", "Choose a multiple.")


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation x * sigmoid(1.702 x) of GELU, on any shape (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
}


def sinusoid(
    t: Tensor, dim: int, *, sines_first: bool = False, inclusive: bool = False, ratio_first: bool = False
) -> Tensor:
    """Times as cosines, then sines, of dim / 2 frequencies that fall from 1 to nearly 1 / 10,000.

    t (B,) -> (B, dim), in float32 as the published weights were trained, which is up to 1e-4 off at t near 1000.
    `sines_first` swaps the halves; with `inclusive` the last frequency is 1 / 10,000 itself; `ratio_first` is another
    published order of rounding, 1e-5 apart. Source: Vaswani et al. 2017, section 3.5.
    """
    half = dim // 2
    # Rounded in this order, as the angles were that the weights were trained on.
    places, steps = torch.arange(half, dtype=torch.float32, device=t.device), half - int(inclusive)
    log = -math.log(10_000.0)
    exponents = places * (log / steps) if ratio_first else log * places / steps
    angles = t.to(torch.float32)[:, None] * torch.exp(exponents)
    halves = (angles.sin(), angles.cos()) if sines_first else (angles.cos(), angles.sin())
    return torch.cat(halves, dim=-1)


def by_head(projected: Tensor, parts: int, heads: int) -> Tensor:
    """A fused projection (B, L, parts * heads * d) -> (parts, B, heads, L, d)."""
    b, length, width = projected.shape
    return projected.view(b, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4)


def positions(x: Tensor) -> Tensor:
    """A feature map (B, C, h, w) as tokens (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def as_image(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (B, h w, C) as the feature map `like` (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(like.shape)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, L, W) -> queries, keys and values, each (B, heads, L, W / heads)."""
        q, k, v = by_head(self.qkv(x), 3, self.heads)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Queries (B, heads, L, d) over keys and values (B, heads, M, d) -> (B, L, heads * d), projected. `mask` is
        added to the logits and broadcasts to (B, heads, L, M)."""
        bias = None if mask is None else mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        return self.attend(*self.project(x), mask=mask, causal=causal)


class Mlp(nn.Module):
    """Linear, activation, Linear on the last axis: (..., width) -> (..., width)."""

    def __init__(self, width: int, hidden: int, activation: ActivationName) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm1(x)), then + mlp(norm2(.)); (B, L, W) -> (B, L, W)."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: ActivationName) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x = x + self.attention(self.norm1(x), mask, causal)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def extend(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The block on tokens x (B, L, W) behind `past` keys and values (B, heads, P, d); `mask` broadcasts to (B,
        heads, L, P + L). Returns the tokens, and the keys and values of all P + L."""
        q, k, v = self.attention.project(self.norm1(x))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = x + self.attention.attend(q, k, v, mask)
        return x + self.mlp(self.norm2(x)), (k, v)


def set_eps(network: nn.Module, eps: float) -> None:
    """Gives all its layer norms the number that they add to the variance."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
