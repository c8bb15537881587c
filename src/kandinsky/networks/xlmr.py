"""The multilingual text encoder: an XLM-R transformer whose mean state is projected to a text embedding.

Sources: Conneau et al. 2020, "Unsupervised Cross-lingual Representation Learning at Scale" (the transformer);
Carlsson et al. 2022, "Cross-lingual and Multilingual CLIP" (the mean and the projection).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kandinsky.core.errors import RequestError
from kandinsky.networks.layers import Attention, Mlp, check_divides, set_eps


@dataclass(frozen=True)
class MultilingualClipConfig:
    """Sizes of the encoder, by default the published one of 560 M parameters; ConfigError when the heads do not divide
    the width.

    `positions` counts the rows of the position table, of which the first `pad_id` are unused; `pooler` is whether files
    hold the transformer's own pooling layer, which nothing here computes.
    """

    vocab_size: int = 250_002
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    positions: int = 514
    projection: int = 768
    pad_id: int = 1
    pooler: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_divides(f"{self.heads} heads", self.heads, [self.width], "a width of {}")

    @property
    def longest(self) -> int:
        """The most tokens of a text, padding not counted."""
        return self.positions - self.pad_id - 1

    def places(self, ids: Tensor) -> Tensor:
        """Rows of the position table (B, L) for ids (B, L): tokens are counted from pad_id + 1, padding is at pad_id.
        RequestError for a text with more tokens than the table serves."""
        real = (ids != self.pad_id).long()
        longest = int(real.sum(dim=1).max()) if ids.numel() else 0
        if longest > self.longest:
            raise RequestError(
                f"{longest} tokens are more than the {self.longest} this text encoder reads.", "Truncate the prompt."
            )
        return torch.cumsum(real, dim=1) * real + self.pad_id


class Block(nn.Module):
    """A post-norm block: norm1(x + attention(x)), then norm2(. + mlp(.)); (B, L, W) -> (B, L, W)."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_width, "gelu")
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, mask))
        y: Tensor = self.norm2(x + self.mlp(x))
        return y


class MultilingualClip(nn.Module):
    """The text encoder: ids and mask (B, L) -> hidden states (B, L, W) and text embedding (B, P)."""

    def __init__(self, config: MultilingualClipConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.positions, width)
        self.segment = nn.Parameter(torch.zeros(1, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_width) for _ in range(config.layers))
        self.projection = nn.Linear(width, config.projection)
        # Never computed; kept so that a file can be written back as it was read.
        self.pooler = nn.Linear(width, width) if config.pooler else None
        for parameter in (self.tokens.weight, self.positions.weight):
            nn.init.normal_(parameter, std=0.02)
        set_eps(self, config.eps)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, L) in [0, vocab_size), mask (B, L) with 1 on real tokens -> hidden states (B, L, W), embedding (B,
        P).

        Masked tokens are not attended to and not averaged, but their own states are computed: a U-Net reads all L of
        them. Raises RequestError for a text with more tokens than the position table serves.
        """
        x = self.norm(self.tokens(ids) + self.segment + self.positions(self.config.places(ids)))
        hidden_tokens = torch.zeros_like(mask, dtype=x.dtype)
        hidden_tokens = hidden_tokens.masked_fill(mask == 0, torch.finfo(x.dtype).min)[:, None, None, :]
        for block in self.blocks:
            x = block(x, hidden_tokens)
        weights = mask.to(x.dtype)[:, :, None]
        # A row without any token has the embedding of the zero vector, not of 0 / 0.
        mean = (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return x, self.projection(mean)
