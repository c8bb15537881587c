"""What every conditioner gives to the denoising loop, and how it is asked."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from kandinsky.core.events import Event
from kandinsky.core.requests import Request, Row
from kandinsky.core.rng import Rng


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are denoised together: their rows of the request, and the source of their noise.

    `pixels` (B, 3, H, W) in [-1, 1], `hint` (B, 3, H, W) and `mask` (B, 1, H, W) in [0, 1] (1 = repaint), all of the
    size that the latents stand for, replace the rows' images where there are numbers instead of 8-bit images.
    """

    rows: Sequence[Row]
    rng: Rng
    pixels: Tensor | None = None
    hint: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Conditions:
    """Network conditions, one row an image; `uncond` is None when nothing is guided."""

    cond: Any
    uncond: Any | None


class Conditioner(Protocol):
    """Turns prompts into conditions; `guided` says whether unconditional ones are wanted as well."""

    def check(self, request: Request, guided: bool) -> None:
        """Raises RequestError for a request (defaults filled in) whose prompts `encode` would refuse."""
        ...

    def encode(
        self, batches: Sequence[Batch], prior_steps: int, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        """Encodes the prompts of all batches, a prior in `prior_steps`; returns their conditions in order."""
        ...
