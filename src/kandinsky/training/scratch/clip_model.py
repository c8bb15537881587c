"""The two CLIP towers as one module to train."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component, config_of
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION
from kandinsky.conditioning.clip_image import CLIP_MEAN, CLIP_STD

GROUPS = 4
"""How many groups of similar length a batch of captions is read in on a processor."""


TEXT: Component = CLIP_TEXT
VISION: Component = CLIP_VISION


class TextFeatures(Protocol):
    """A text tower's output: `hidden` (B, L, W) and `embedding` (B, P)."""

    @property
    def hidden(self) -> Tensor: ...

    @property
    def embedding(self) -> Tensor: ...


class ClipModel(nn.Module):
    """Text tower, vision tower, and the learned scale of their logits (Radford et al. 2021, figure 3).

    `text` and `vision` are the towers' configurations.
    """

    def __init__(self, text: object, vision: object) -> None:
        super().__init__()
        self.text: nn.Module = TEXT.build(text)
        self.vision: nn.Module = VISION.build(vision)
        self.image_size: int = config_of(self.vision).image_size
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def see(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], of any size, to image embeddings (B, P)."""
        embedding: Tensor = self.vision(vision_pixels(images, self.image_size))
        return embedding

    def see_nothing(self) -> Tensor:
        """The embedding (1, P) of an image that is zero after normalisation: the decoder's empty condition."""
        blank = torch.zeros(1, 3, self.image_size, self.image_size, device=self.log_scale.device)
        embedding: Tensor = self.vision(blank)
        return embedding

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Texts (B, L) to text embeddings (B, P), short ones apart from long ones where that is faster."""
        rows = by_length(mask.sum(dim=1), ids.device)
        found = torch.cat([self.read(trimmed(ids[group], mask[group])[0]).embedding for group in rows])
        return found[torch.cat(rows).argsort()]

    def read(self, ids: Tensor) -> TextFeatures:
        """Token ids (B, L) to the text's features."""
        features: TextFeatures = self.text(ids)
        return features


def vision_pixels(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as the vision tower takes them: `size` pixels, shifted and scaled."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (images * 0.5 + 0.5 - mean) / std


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and mask (B, L) without the columns that are padding in every row.

    The text tower is causal and the prior never sees padding, so both say the same; most captions are short.
    """
    longest = int(mask.sum(dim=1).max())
    return ids[:, :longest], mask[:, :longest]


def by_length(lengths: Tensor, device: torch.device) -> list[Tensor]:
    """The rows of a batch in groups of similar length, each a tensor of row numbers; one group on a GPU.

    `lengths` (B,) counts tokens. A processor is the faster for every token of padding that it is spared.
    """
    parts = GROUPS if device.type == "cpu" else 1
    return [rows for rows in lengths.argsort(stable=True).tensor_split(parts) if len(rows)]
