"""What the facades of the original packages share: their noise, their masks, the U-Net that a task needs."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.generations.model import Model


class OriginalFacade:
    """A facade over a loaded model.

    `noise(shape)` draws what the original code would draw: from torch's own generator on the model's device, so that
    `torch.manual_seed` makes calls repeatable, in float32 whatever the networks compute in.
    """

    model: Model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Draws a standard normal tensor."""
        return torch.randn(shape, device=self.device)


class OriginalNoise:
    """Noise as the original code draws it, also where it draws for nothing; `draw` makes a normal tensor of a shape.

    A trajectory of samples of `axes` axes draws `total` times there; what ours does not ask for is drawn when something
    else begins: samples with other axes, the source that follows this one `before` it, or `finish`. With `doubled`,
    samples are the first halves of batches of twice their number, but for the first `plain` images (their encoding).
    """

    def __init__(
        self,
        draw: Callable[[tuple[int, ...]], Tensor],
        total: int,
        axes: int,
        doubled: bool = False,
        plain: int = 0,
        before: "OriginalNoise | None" = None,
    ) -> None:
        self.draw, self.total, self.axes = draw, total, axes
        self.doubled, self.plain, self.before = doubled, plain, before
        self._drawn: list[tuple[int, ...]] = []

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        if self.before is not None:
            self.before.finish()
            self.before = None
        if len(shape) != self.axes:
            self.finish()
            if self.plain > 0:
                self.plain -= 1
                return self.draw(shape)
        whole = (2 * shape[0], *shape[1:]) if self.doubled else shape
        if len(shape) == self.axes:
            self._drawn.append(whole)
        return self.draw(whole)[: shape[0]]

    def finish(self) -> None:
        """Draws what a trajectory that has begun would still draw."""
        while 0 < len(self._drawn) < self.total:
            self._drawn.append(self._drawn[-1])
            self.draw(self._drawn[-1])
        self._drawn.clear()

    def select(self, rows: Sequence[int]) -> "OriginalNoise":
        """See `Rng`: the rows asked for are drawn at once."""
        return self

    def fork(self) -> "OriginalNoise":
        """See `Rng`; what negative prompts draw follows what prompts draw here."""
        self.finish()
        return self


def mask_numbers(mask: object, one: str) -> NDArray[np.float32]:
    """A mask (H, W) as numbers in 0..1, from an array, a tensor (of bytes up to 255, too) or a PIL image; RequestError
    for others, which says what `one` means."""
    if isinstance(mask, Image):
        mask = np.asarray(mask.convert("L"))
    elif isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    values = np.squeeze(mask) if isinstance(mask, np.ndarray) else np.zeros(0)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise RequestError(f"A {type(mask).__name__} is not a mask.", f"Give an array (H, W) in which 1 is {one}.")
    numbers = values.astype(np.float32)
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 255):
        raise RequestError("The mask has numbers outside 0 to 1.", f"Give an array (H, W) in which 1 is {one}.")
    return numbers / np.float32(255) if numbers.max() > 1 else numbers


def check_kind(who: str, model: Model, inpainting: bool) -> None:
    """Raises RequestError when a U-Net is of the wrong kind for what `who` is asked.

    `inpainting` says whether that is inpainting. The native API inpaints with an ordinary U-Net too, by
    pinning what is known; in the code that these names come from such a call is a mistake, and is told.
    """
    channels = model.network.config.in_channels
    if inpainting and not model.extra_channels:
        raise RequestError(
            f"{who} inpaints, and a U-Net of {channels} channels is of the wrong kind of checkpoint for it.",
            f"Load the inpainting checkpoint, whose U-Net takes {2 * model.codec.channels + 1}; "
            "or inpaint with this one by kandinsky.load and generate, which keep the rest of the image.",
        )
    if model.extra_channels and not inpainting:
        raise RequestError(
            f"{who} takes no mask, and a U-Net of {channels} channels is of an inpainting checkpoint.",
            f"Load the text-to-image checkpoint, whose U-Net takes {model.codec.channels}; "
            "or use the inpainting pipeline.",
        )
