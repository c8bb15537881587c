"""Sample sheets of fine-tuning: what a checkpoint draws now, and from what."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.images import to_pil
from kandinsky.training.finetune.base_checkpoint import Base
from kandinsky.training.image_grid import pictures_to_sheet
from kandinsky.training.task import Sheet

SHEET_STEPS = 10


def draw_sheet(
    base: Base, captions: Sequence[str], shape: tuple[int, int], steps: int = SHEET_STEPS
) -> Sheet:
    """A row of pictures that the checkpoint draws now under captions, each from its own seed."""
    result = base.pipe.generate(
        list(captions),
        seed=0,
        steps=steps,
        **base.drawing(*shape),
        **_prior(base),
    )
    return pictures_to_sheet(result.images, len(captions))


def draw_following(base: Base, captions: Sequence[str], hints: Tensor) -> Sheet:
    """Hint pictures (B, 3, S, S) in [0, 1], and below them what is drawn under captions and them."""
    shown = to_pil(2 * hints - 1)
    result = base.pipe.generate(
        list(captions),
        hint=shown,
        seed=0,
        steps=SHEET_STEPS,
        width=hints.shape[-1],
        height=hints.shape[-2],
        **_prior(base),
    )
    return pictures_to_sheet([*shown, *result.images], len(captions))


def draw_repainted(base: Base, captions: Sequence[str], pixels: Tensor, repaint: Tensor) -> Sheet:
    """Pictures (B, 3, S, S) with regions (B, 1, S, S) in grey, and below them repainted."""
    drawn: list[Image.Image] = []
    pixels = pixels.cpu()
    for caption, picture, region in zip(captions, pixels, repaint, strict=True):
        image, mask = (to_pil(value[None])[0] for value in (picture, 2 * region.expand(3, -1, -1) - 1))
        result = base.pipe.generate(
            caption,
            image=image,
            mask=mask,
            seed=len(drawn),
            steps=SHEET_STEPS,
            width=pixels.shape[-1],
            height=pixels.shape[-2],
            **_prior(base),
        )
        drawn += result.images
    shown = to_pil(torch.where(repaint > 0, 0.0, pixels))
    return pictures_to_sheet([*shown, *drawn], len(captions))


def _prior(base: Base) -> dict[str, Any]:
    return {"prior_steps": SHEET_STEPS} if base.prior is not None else {}
