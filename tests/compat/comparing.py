"""What the tests of the facades share: generators, images, and both sides of a comparison."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.parity.oracles import relative
from tests.tiny import Checkpoints

STEPS, PRIOR_STEPS = 4, 3
SMALL: dict[str, Any] = {"height": 64, "width": 128, "num_inference_steps": STEPS}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(kind: str, count: int, seed: int = 5) -> Any:
    """Generators as callers pass them: "one" for all, or a "list" with one for each image."""
    return seeded(seed) if kind == "one" else [seeded(seed + i) for i in range(count)]


def draw_image(width: int = 128, height: int = 64, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def hole(width: int = 128, height: int = 64) -> np.ndarray[Any, np.dtype[np.float32]]:
    mask = np.zeros((height, width), dtype=np.float32)
    mask[8:40, 16:56] = 1.0
    return mask


def embeds(rows: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and negative embeddings of the tiny decoders."""
    both = torch.randn(2 * rows, 20, generator=seeded(seed))
    return both[:rows], both[rows:]


def close(ours: Any, theirs: Any, tolerance: float = 1e-4) -> bool:
    return tuple(ours.shape) == tuple(theirs.shape) and relative(ours.float(), theirs.float()) < tolerance


def oracle(kind: Any, source: Any) -> Any:
    """A pipeline of diffusers on the components of another."""
    made = kind(**source.components)
    made.set_progress_bar_config(disable=True)
    return made


def folder(tiny: Checkpoints, name: str) -> Any:
    """A folder that diffusers saved."""
    assert tiny.prior
    assert tiny.decoders
    return tiny.root / name
