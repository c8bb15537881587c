"""How well images show their captions, as a CLIP model sees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from kandinsky.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Clip:
    """A CLIP model: `see` takes RGB images to embeddings (B, D), `read` texts; `name` says which it is."""

    see: "Callable[[Sequence[Image]], Tensor]"
    read: Callable[[Sequence[str]], Tensor]
    name: str


@dataclass(frozen=True)
class ClipScore:
    """The mean cosine of images and their captions; `score` is 100 max(cosine, 0), as tables give it."""

    cosine: float
    score: float
    images: int


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """The cosine of each pair (N,) of embeddings (N, D); DataError for different shapes."""
    if images.shape != texts.shape or images.ndim != 2 or len(images) == 0:
        raise DataError(
            f"Embeddings of {tuple(images.shape)} and {tuple(texts.shape)} are no pairs.", "Give a caption an image."
        )
    return functional.cosine_similarity(images.double(), texts.double())


def clip_score(found: Tensor) -> ClipScore:
    """The score (Hessel 2021, equation 1, with the weight 100 that torchmetrics and tables use) of `cosines` (N,)."""
    return ClipScore(float(found.mean()), float(100 * found.clamp_min(0).mean()), len(found))


@torch.inference_mode()
def pair_cosines(clip: Clip, images: "Sequence[Image]", captions: Sequence[str]) -> Tensor:
    """The cosine (B,) of each image and its caption, float64."""
    return cosines(clip.see(images).float().cpu(), clip.read(captions).float().cpu())
