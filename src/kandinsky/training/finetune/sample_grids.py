"""Sample grids of fine-tuning: what a checkpoint draws now, and from what."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.images import to_pil
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, Fields
from kandinsky.training.image_grid import ImageGrid, images_to_grid

STEPS = 10


def draw_grid(base: BaseCheckpoint, captions: Sequence[str], shape: tuple[int, int], steps: int = STEPS) -> ImageGrid:
    """A row of images that the checkpoint draws now under captions, each from its own seed."""
    fields = base.request_fields(*shape) | _prior_steps(base)
    result = base.pipe.generate(list(captions), seed=0, steps=steps, **fields)
    return images_to_grid(result.images, len(captions))


def draw_with_hints(base: BaseCheckpoint, captions: Sequence[str], hints: Tensor) -> ImageGrid:
    """Hint images (B, 3, H, W) in [0, 1], and below them what is drawn under captions and them."""
    shown = to_pil(2 * hints - 1)
    height, width = hints.shape[-2:]
    result = base.pipe.generate(
        list(captions), hint=shown, seed=0, steps=STEPS, width=width, height=height, **_prior_steps(base)
    )
    return images_to_grid([*shown, *result.images], len(captions))


def draw_inpainted(base: BaseCheckpoint, captions: Sequence[str], pixels: Tensor, repaint: Tensor) -> ImageGrid:
    """Images (B, 3, H, W) with regions (B, 1, H, W) in grey, and below them repainted."""
    drawn: list[Image.Image] = []
    pixels = pixels.cpu()
    fields = {"steps": STEPS, "height": pixels.shape[-2], "width": pixels.shape[-1], **_prior_steps(base)}
    for caption, values, region in zip(captions, pixels, repaint, strict=True):
        image, mask = (to_pil(value[None])[0] for value in (values, 2 * region.expand(3, -1, -1) - 1))
        drawn += base.pipe.generate(caption, image=image, mask=mask, seed=len(drawn), **fields).images
    shown = to_pil(torch.where(repaint > 0, 0.0, pixels))
    return images_to_grid([*shown, *drawn], len(captions))


def _prior_steps(base: BaseCheckpoint) -> Fields:
    return {"prior_steps": STEPS} if base.prior is not None else {}
