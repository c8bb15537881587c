"""The diffusion prior: a causal transformer that denoises an image embedding under a text.

Its tokens, in order: the text's, the text embedding, the time, the noisy image embedding, and a learned one
at which the clean image embedding is read. Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image
Generation with CLIP Latents", section 2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import RequestError
from kandinsky.networks.film_table import FilmTable
from kandinsky.networks.layers import Block, Mlp, sinusoid
from kandinsky.networks.prepared import PreparedNetwork

HIDDEN = -10_000.0
"""The logit bias of a masked token, as in the published code."""


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of a prior: `embedding_dim` of image and text embeddings, `text_width` of the text tower's states, `tokens`
    of a text."""

    heads: int
    head_dim: int
    layers: int
    embedding_dim: int
    text_width: int
    tokens: int = 77

    @property
    def width(self) -> int:
        """The width of the transformer, heads * head_dim."""
        return self.heads * self.head_dim

    @property
    def extra_tokens(self) -> int:
        """The tokens behind the text's: text embedding, time, noisy embedding, and the one that is read."""
        return 4

    def mask(self, text_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias of the logits, (B, 1, N, N): causal, and padding of the text masked."""
        count = text_mask.shape[1] + self.extra_tokens
        causal = torch.full((count, count), HIDDEN, dtype=dtype, device=text_mask.device).triu(1)
        padding = F.pad((1 - text_mask.to(dtype)) * HIDDEN, (0, self.extra_tokens))
        return causal + padding[:, None, None, :]

    def check_length(self, condition: "PriorCondition") -> None:
        """Raises RequestError for a text of more than `tokens`."""
        count, limit = condition.text_hidden.shape[1], self.tokens
        if count > limit:
            raise RequestError(f"A text of {count} tokens does not fit this prior.", f"Cut it to {limit} tokens.")


@dataclass(frozen=True)
class PriorCondition:
    """A prior's condition: `text_hidden` (B, L, W), `text_embedding` (B, D) and `text_mask` (B, L), a bool that is True
    on real tokens. Embeddings are not normalised. L may be less than the prior's `tokens`; missing ones count as
    masked."""

    text_hidden: Tensor
    text_embedding: Tensor
    text_mask: Tensor

    def check_starts(self) -> None:
        """Raises RequestError when a text's first token is masked: a row that sees nothing behind it would look
        ahead."""
        bad = (~self.text_mask[:, 0].bool()).nonzero().flatten().tolist()
        if bad:
            raise RequestError(
                f"The first text token of row {bad[0]} is masked.", "Keep at least the start token of each text."
            )

    @classmethod
    def of(cls, rows: "Sequence[PriorCondition]") -> "PriorCondition":
        """The rows of several conditions; shorter texts are padded, as masked, to the longest."""
        longest = max(row.text_mask.shape[1] for row in rows)
        missing = [longest - row.text_mask.shape[1] for row in rows]
        return cls(
            torch.cat([F.pad(row.text_hidden, (0, 0, 0, n)) for row, n in zip(rows, missing, strict=True)]),
            torch.cat([row.text_embedding for row in rows]),
            torch.cat([F.pad(row.text_mask, (0, n)) for row, n in zip(rows, missing, strict=True)]),
        )


class Prior(nn.Module):
    """The diffusion prior: (x, t, condition) -> x0, all normalised by `clip_mean` and `clip_std` (1, D), the statistics
    of real image embeddings, which are saved with the weights but never trained."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_in = nn.Linear(config.text_width, width)
        self.embedding_in = nn.Linear(config.embedding_dim, width)
        self.time_mlp = Mlp(width, width, "silu")
        self.noisy_in = nn.Linear(config.embedding_dim, width)
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, config.tokens + config.extra_tokens, width))
        self.blocks = nn.ModuleList(Block(width, config.heads, 4 * width, "gelu") for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, config.embedding_dim)
        self.clip_mean = nn.Parameter(torch.zeros(1, config.embedding_dim), requires_grad=False)
        self.clip_std = nn.Parameter(torch.ones(1, config.embedding_dim), requires_grad=False)
        self._initialise()

    def forward(self, noisy: Tensor, t: Tensor, condition: PriorCondition) -> Tensor:
        """noisy (B, D) normalised, t (B,) in [0, 1000) -> the clean embedding (B, D), normalised; RequestError for too
        long a text."""
        prefix = self._prefix(condition)
        x = torch.cat([prefix, self._suffix(noisy, self._time_tokens(t.expand(len(noisy))))], dim=1)
        mask = self.config.mask(condition.text_mask, x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self._read(x)

    def prepare(self, condition: PriorCondition, times: Sequence[float]) -> "PreparedNetwork[PriorFixed]":
        """Computes once what no step changes: the text's keys and values in every layer, and all time tokens.

        The mask is causal, so a step has only three tokens left to compute. Raises RequestError when a text's first
        token is masked: a row that sees nothing behind it would look ahead.
        """
        condition.check_starts()
        x = self._prefix(condition)
        length = x.shape[1]
        mask = self.config.mask(condition.text_mask, x.dtype)
        past = []
        for block in self._blocks():
            x, cached = block.extend(x, None, mask[:, :, :length, :length])
            past.append(cached)
        row = self.query[0]
        table = FilmTable(lambda t, _: [self._time_tokens(t)[:, None]], times, row, self.config.width)
        return PreparedNetwork(self, table, partial(PriorFixed, tuple(past), mask[:, :, length:]))

    def request_modules(self) -> list[nn.Module]:
        """The modules that only `prepare` calls."""
        return [self.text_in, self.embedding_in, self.time_mlp]

    def denoise(self, x: Tensor, fixed: "PriorFixed") -> Tensor:
        """x (B, D) normalised -> the clean embedding (B, D), from the tokens that come after the text."""
        tokens = self._suffix(x, fixed.time_token)
        for block, past in zip(self._blocks(), fixed.past, strict=True):
            tokens, _ = block.extend(tokens, past, fixed.mask)
        return self._read(tokens)

    def normalise(self, embedding: Tensor) -> Tensor:
        """An image embedding (B, D) in units of the statistics of real ones, the space the prior works in."""
        return (embedding - self.clip_mean) / self.clip_std

    def denormalise(self, x: Tensor) -> Tensor:
        """The image embedding (B, D) that `normalise` turns into x."""
        return x * self.clip_std + self.clip_mean

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _prefix(self, condition: PriorCondition) -> Tensor:
        self.config.check_length(condition)
        count, limit = condition.text_hidden.shape[1], self.config.tokens
        text = self.text_in(condition.text_hidden) + self.positions[:, :count]
        embedding = self.embedding_in(condition.text_embedding)[:, None]
        return torch.cat([text, embedding + self.positions[:, limit : limit + 1]], dim=1)

    def _suffix(self, noisy: Tensor, time_tokens: Tensor) -> Tensor:
        rows = len(noisy)
        tokens = [time_tokens.expand(rows, -1)[:, None], self.noisy_in(noisy)[:, None], self.query.expand(rows, -1, -1)]
        return torch.cat(tokens, dim=1) + self.positions[:, self.config.tokens + 1 :]

    def _time_tokens(self, t: Tensor) -> Tensor:
        tokens: Tensor = self.time_mlp(sinusoid(t, self.config.width).to(self.positions.dtype))
        return tokens

    def _read(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm(x[:, -1]))
        return y

    def _initialise(self) -> None:
        """Small normal weights; residual branches start shut, so the untrained network is nearly affine."""
        for parameter in (self.query, self.positions):
            nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in self._blocks():
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)


@dataclass(frozen=True)
class PriorFixed:
    """Inputs of a step besides the embedding: keys and values (B, heads, tokens + 1, head_dim) of each layer (`past`),
    `mask` (B, 1, 3, all) of the three tokens, `time_token` (1, width)."""

    past: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    time_token: Tensor
