"""Conditions of a 2.x U-Net, as context tokens and as an addition to its time embedding.

Sources: Ramesh et al. 2022, arXiv 2204.06125, section 2.1 (an image embedding as tokens and in the time embedding);
Nichol et al. 2021, arXiv 2112.10741, section 3 (a text's tokens as context).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError
from kandinsky.networks.layers import check_divides

ConditionKind = Literal["image", "text_image", "image_hint", "two_texts"]
POOLING_HEADS = 8
"""Heads of the attention pooling of "two_texts", fixed in the published code."""


@dataclass(frozen=True)
class UNet2Config:
    """Sizes of a 2.x U-Net, by default those of the published decoder conditioned on an image embedding.

    `condition` is "image" (an image embedding), "text_image" (also a text's hidden states and embedding), "image_hint"
    (an image embedding and a hint image) or "two_texts" (the states of two text encoders and the embedding of the
    first). `text_dim` is the width of a text embedding, `text_hidden_dim` and `second_text_dim` those of the encoders'
    states. All levels but the first have attention. Raises ConfigError for widths that groups or heads do not divide.
    """

    in_channels: int = 4
    out_channels: int = 8
    channels: tuple[int, ...] = (384, 768, 1152, 1536)
    layers: int = 3
    head_dim: int = 64
    context_dim: int = 768
    groups: int = 32
    condition: ConditionKind = "image"
    image_dim: int = 1280
    image_tokens: int = 32
    text_hidden_dim: int = 1024
    text_dim: int = 768
    second_text_dim: int = 512

    def __post_init__(self) -> None:
        check_divides(f"{self.groups} groups", self.groups, self.channels)
        check_divides(f"Heads of width {self.head_dim}", self.head_dim, self.channels[1:])
        if self.condition == "two_texts":
            widths = [self.second_text_dim]
            check_divides(f"{POOLING_HEADS} heads", POOLING_HEADS, widths, "a second text width of {}")

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels[0]

    @property
    def multiple(self) -> int:
        """Height and width of the latents must be multiples of this."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def hint_downscale(self) -> int:
        """Pixels of a hint image per latent along one side."""
        return HintEncoder.DOWNSCALE


@dataclass(frozen=True)
class UNet2Condition:
    """The condition of a 2.x U-Net, one row an image.

    `image_embedding` (B, D) for all but "two_texts"; `text_hidden` (B, L, W) and `text_embedding` (B, P) for
    "text_image" and "two_texts", the latter also `second_text_hidden` (B, L', W'); `hint` (B, 3, 8h, 8w) in [0, 1] for
    "image_hint"; `extra` (B, c, h, w), the masked latents and mask of an inpainting network.
    """

    image_embedding: Tensor | None = None
    text_hidden: Tensor | None = None
    text_embedding: Tensor | None = None
    hint: Tensor | None = None
    extra: Tensor | None = None
    second_text_hidden: Tensor | None = None

    def joined(self, other: "UNet2Condition") -> "UNet2Condition":
        """The rows of this condition, then those of `other`."""

        pairs = ((getattr(self, part.name), getattr(other, part.name)) for part in fields(self))
        return UNet2Condition(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


def given(value: Tensor | None, name: str) -> Tensor:
    """A part of the condition that the network needs; ConfigError when it is missing."""
    if value is None:
        raise ConfigError(f"This network needs {name}, none was given.", f"Set {name} in the condition.")
    return value


class ImageConditioning(nn.Module):
    """An image embedding as context tokens and as an addition to the time embedding, both layer-normed."""

    def __init__(self, config: UNet2Config) -> None:
        super().__init__()
        self.tokens = nn.Linear(config.image_dim, config.image_tokens * config.context_dim)
        self.tokens_norm = nn.LayerNorm(config.context_dim)
        self.pooled = nn.Linear(config.image_dim, config.time_dim)
        self.pooled_norm = nn.LayerNorm(config.time_dim)
        self.context_dim = config.context_dim

    def forward(self, condition: UNet2Condition) -> tuple[Tensor, Tensor]:
        embedding = given(condition.image_embedding, "image_embedding")
        context = self.tokens(embedding).unflatten(1, (-1, self.context_dim))
        return self.tokens_norm(context), self.pooled_norm(self.pooled(embedding))


class TextImageConditioning(nn.Module):
    """Image tokens, then text tokens, not normed; pooled text (normed) and image go to the time embedding."""

    def __init__(self, config: UNet2Config) -> None:
        super().__init__()
        self.tokens = nn.Linear(config.image_dim, config.image_tokens * config.context_dim)
        self.text_tokens = nn.Linear(config.text_hidden_dim, config.context_dim)
        self.pooled = nn.Linear(config.image_dim, config.time_dim)
        self.text_pooled = nn.Linear(config.text_dim, config.time_dim)
        self.text_pooled_norm = nn.LayerNorm(config.time_dim)
        self.context_dim = config.context_dim

    def forward(self, condition: UNet2Condition) -> tuple[Tensor, Tensor]:
        embedding = given(condition.image_embedding, "image_embedding")
        image = self.tokens(embedding).unflatten(1, (-1, self.context_dim))
        text = self.text_tokens(given(condition.text_hidden, "text_hidden"))
        pooled_text = self.text_pooled_norm(self.text_pooled(given(condition.text_embedding, "text_embedding")))
        return torch.cat([image, text], dim=1), self.pooled(embedding) + pooled_text


class FirstTokenPooling(nn.Module):
    """Self-attention read at the first token only: (B, L, W) -> (B, width), nothing masked."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width_in, width_in)
        self.k = nn.Linear(width_in, width_in)
        self.v = nn.Linear(width_in, width_in)
        self.out = nn.Linear(width_in, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attends from token 0 to all L."""
        q, k, v = (
            layer(x).unflatten(2, (POOLING_HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.q, tokens[:, :1]), (self.k, tokens), (self.v, tokens))
        )
        pooled: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).flatten(1))
        return pooled


class TwoTextsConditioning(nn.Module):
    """The tokens of two texts in a row, normed; both pooled, each normed, and added to the time embedding."""

    def __init__(self, config: UNet2Config) -> None:
        super().__init__()
        self.text_tokens = nn.Linear(config.text_hidden_dim, config.context_dim)
        self.second_tokens = nn.Linear(config.second_text_dim, config.context_dim)
        self.tokens_norm = nn.LayerNorm(config.context_dim)
        self.text_pooled = nn.Linear(config.text_dim, config.time_dim)
        self.text_pooled_norm = nn.LayerNorm(config.time_dim)
        self.second_pooled = FirstTokenPooling(config.second_text_dim, config.time_dim)
        self.second_pooled_norm = nn.LayerNorm(config.time_dim)

    def forward(self, condition: UNet2Condition) -> tuple[Tensor, Tensor]:
        first = given(condition.text_hidden, "text_hidden")
        second = given(condition.second_text_hidden, "second_text_hidden")
        pooled = self.text_pooled_norm(self.text_pooled(given(condition.text_embedding, "text_embedding")))
        tokens = torch.cat([self.text_tokens(first), self.second_tokens(second)], dim=1)
        return self.tokens_norm(tokens), pooled + self.second_pooled_norm(self.second_pooled(second))


class HintEncoder(nn.Module):
    """A hint image (B, 3, 8h, 8w) in [0, 1] to (B, 4, h, w) channels for the network's input."""

    PLAN = ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 96, 2), (96, 96, 1), (96, 256, 2), (256, 4, 1))
    DOWNSCALE = 8

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=s, padding=1) for i, o, s in self.PLAN)

    def forward(self, hint: Tensor) -> Tensor:
        for position, conv in enumerate(self.convs):
            hint = conv(F.silu(hint) if position else hint)
        return hint


CONDITIONINGS: dict[ConditionKind, Callable[[UNet2Config], nn.Module]] = {
    "image": ImageConditioning,
    "text_image": TextImageConditioning,
    "image_hint": ImageConditioning,
    "two_texts": TwoTextsConditioning,
}
"""The module that turns a condition into (context tokens, addition to the time embedding)."""
