"""CLIP's two towers: a causal text transformer and a vision transformer that end in one shared space.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", 2.4.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError, RequestError
from kandinsky.networks.layers import Block, check_divides, set_eps

ClipActivation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes of a text tower; ConfigError when the heads do not divide the width, or when "eos" has no `eos_id`.

    `pool` is the token of the embedding: the first `eos_id` ("eos"), or the highest id of the row ("argmax", which is
    the end token of the published vocabulary).
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int
    projection: int
    activation: ClipActivation
    eos_id: int | None
    pool: Literal["argmax", "eos"]
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_divides(f"{self.heads} heads", self.heads, [self.width], "a width of {}")
        if self.pool == "eos" and self.eos_id is None:
            raise ConfigError("pool is 'eos' but eos_id is None.", "Give the id of the end-of-text token.")

    def check_length(self, ids: Tensor) -> None:
        """Raises RequestError for ids (B, L) with more than `positions` in a row."""
        if ids.shape[1] > self.positions:
            raise RequestError(
                f"{ids.shape[1]} tokens are more than the {self.positions} this text encoder reads.",
                "Truncate the prompt.",
            )

    def pooled(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The states (B, W) of hidden (B, L, W) that become the embedding."""
        by_id = self.pool == "argmax" or self.eos_id is None
        end = (ids if by_id else torch.eq(ids, self.eos_id).int()).argmax(dim=1)  # type: ignore[arg-type]
        return hidden[torch.arange(len(ids), device=ids.device), end]


@dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes of a vision tower, `image_size` and `patch` in pixels; ConfigError when the heads do not divide the width
    or an image holds no whole patch."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    image_size: int
    patch: int
    projection: int
    activation: ClipActivation
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_divides(f"{self.heads} heads", self.heads, [self.width], "a width of {}")
        if not 0 < self.patch <= self.image_size:
            raise ConfigError(
                f"Patches of {self.patch} pixels do not fit an image of {self.image_size}.",
                "Choose a patch between 1 and the image's size.",
            )

    def check_pixels(self, pixels: Tensor) -> None:
        """Raises RequestError for pixels of another shape than (B, 3, image_size, image_size)."""
        size = self.image_size
        if tuple(pixels.shape[1:]) != (3, size, size):
            raise RequestError(
                f"Pixels of shape {tuple(pixels.shape)} do not fit this image encoder.",
                f"Resize images to (batch, 3, {size}, {size}).",
            )


@dataclass(frozen=True)
class ClipTextFeatures:
    """A text tower's output: `hidden` (B, L, W) after the last norm, `embedding` (B, P) not normalised."""

    hidden: Tensor
    embedding: Tensor


class ClipText(nn.Module):
    """The text tower: ids (B, L) -> ClipTextFeatures. Attention is causal, so padding behind the end token never
    reaches the embedding."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = _blocks(config)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.projection.weight, std=config.width**-0.5)
        set_eps(self, config.eps)

    def forward(self, ids: Tensor) -> ClipTextFeatures:
        """ids (B, L) whole numbers in [0, vocab_size), L <= positions; RequestError when L is larger."""
        self.config.check_length(ids)
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        hidden = self.norm(x)
        return ClipTextFeatures(hidden, self.projection(self.config.pooled(hidden, ids)))


class ClipVision(nn.Module):
    """The vision tower: pixels (B, 3, S, S), already normalised by CLIP's mean and deviation, -> (B, P)."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        scale = config.width**-0.5
        count = (config.image_size // config.patch) ** 2 + 1
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(count, config.width))
        self.norm_in = nn.LayerNorm(config.width)
        self.blocks = _blocks(config)
        self.norm_out = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False)
        for parameter in (self.class_token, self.positions, self.projection.weight):
            nn.init.normal_(parameter, std=scale)
        set_eps(self, config.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, image_size, image_size) -> (B, P), not normalised; RequestError for other sizes."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return self.read(x)

    def embed(self, pixels: Tensor) -> Tensor:
        """The input of the first block, (B, 1 + patches, W); pixels as in `forward`."""
        self.config.check_pixels(pixels)
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(pixels), 1, -1)
        x: Tensor = self.norm_in(torch.cat([first, patches], dim=1) + self.positions)
        return x

    def read(self, x: Tensor) -> Tensor:
        """The output of the last block to the embedding (B, P)."""
        embedding: Tensor = self.projection(self.norm_out(x[:, 0]))
        return embedding


def _blocks(config: ClipTextConfig | ClipVisionConfig) -> nn.ModuleList:
    """Blocks with CLIP's published initial scales: residual branches shrink with the depth."""
    blocks = []
    for _ in range(config.layers):
        block = Block(config.width, config.heads, config.mlp_width, config.activation)
        nn.init.normal_(block.attention.qkv.weight, std=config.width**-0.5)
        nn.init.normal_(block.mlp.up.weight, std=(2 * config.width) ** -0.5)
        for branch in (block.attention.out, block.mlp.down):
            nn.init.normal_(branch.weight, std=(2 * config.width * config.layers) ** -0.5)
        for layer in (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down):
            nn.init.zeros_(layer.bias)
        blocks.append(block)
    return nn.ModuleList(blocks)
