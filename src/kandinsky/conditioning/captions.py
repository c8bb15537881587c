"""Conditions of networks that are trained from scratch, from the outputs of a CLIP that was trained before."""

from typing import Protocol

from torch import Tensor

from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2Condition


class TextCondition(Protocol):
    """A prior's condition of texts (B, L)."""

    @property
    def text_hidden(self) -> Tensor: ...

    @property
    def text_mask(self) -> Tensor: ...


def text_condition(hidden: Tensor, embedding: Tensor, mask: Tensor) -> TextCondition:
    """A prior's condition: hidden states (B, L, W), embeddings (B, D) and mask (B, L) of texts."""
    return PriorCondition(hidden, embedding, mask)


def image_condition(embedding: Tensor) -> object:
    """A decoder's condition: image embeddings (B, D)."""
    return UNet2Condition(embedding)
