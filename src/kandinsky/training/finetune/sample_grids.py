"""Sample grids of fine-tuning: what a checkpoint draws now, with its inputs."""

from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from kandinsky.core.images import to_pil
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint
from kandinsky.training.image_grid import ImageGrid, images_to_grid

STEPS = 10


def draw_grid(base: BaseCheckpoint, captions: Sequence[str], shape: tuple[int, int], steps: int = STEPS) -> ImageGrid:
    """A row of images that the checkpoint draws now under captions, each from its own seed."""
    return images_to_grid(_drawn(base, captions, shape, steps=steps), len(captions))


def draw_with_hints(base: BaseCheckpoint, captions: Sequence[str], hints: Tensor) -> ImageGrid:
    """Hint images (B, 3, H, W) in [0, 1], and below them what is drawn under captions and them."""
    shown = to_pil(2 * hints - 1)
    return images_to_grid([*shown, *_drawn(base, captions, hints.shape[-2:], hint=shown)], len(captions))


def draw_inpainted(base: BaseCheckpoint, captions: Sequence[str], pixels: Tensor, repaint: Tensor) -> ImageGrid:
    """Images (B, 3, H, W) with regions (B, 1, H, W) in grey, and below them repainted."""
    drawn: list[Image] = []
    pixels = pixels.cpu()
    for caption, values, region in zip(captions, pixels, repaint, strict=True):
        image, mask = (to_pil(value[None])[0] for value in (values, 2 * region.expand(3, -1, -1) - 1))
        drawn += _drawn(base, [caption], pixels.shape[-2:], image=image, mask=mask, seed=len(drawn))
    shown = to_pil(torch.where(repaint > 0, 0.0, pixels))
    return images_to_grid([*shown, *drawn], len(captions))


def _drawn(base: BaseCheckpoint, captions: Sequence[str], shape: Sequence[int], **given: object) -> list[Image]:
    """Images of height and width `shape` under captions; `given` are other fields of the request."""
    prior = {"prior_steps": STEPS} if base.prior is not None else {}
    fields = {"seed": 0, "steps": STEPS, **base.request_fields(*shape), **prior, **given}
    return base.pipe.generate(list(captions), **fields).images
