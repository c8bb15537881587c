"""The pipelines of Kandinsky 3 by the original code's names and in its conventions."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

from kandinsky.compat.kandinsky3.noise import BatchNoise
from kandinsky.compat.kinds import check_kind
from kandinsky.compat.terminal import shown
from kandinsky.conditioning.conditions import Batch
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Result
from kandinsky.core.images import open_image
from kandinsky.core.requests import Request, Row
from kandinsky.engine.acceleration.networks import accelerated_model
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import generate
from kandinsky.tasks.resolve import Resolved, resolve

LARGEST_AREA = 1024 * 1024
"""Input images above it are made smaller."""


class Facade:
    """A loaded model.

    `noise(shape)` draws what the original code would draw: from torch's own generator on the model's device,
    so that `torch.manual_seed` makes calls repeatable. A negative prompt has a length and a mask of its own;
    with `cut_negatives` it is cut or padded to the prompt's, as the original code does.
    """

    cut_negatives = False

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Draws a standard normal tensor in float32."""
        return torch.randn(shape, device=self.device)

    def _images(
        self, fields: Mapping[str, object], count: int, size: int, eta: float, mask: Tensor | None = None
    ) -> list[Image]:
        """The images of a request, `count` of its prompt, `size` at once; `eta` is the square of ours."""
        if not isinstance(fields["prompt"], str):
            raise RequestError(f"text is a {type(fields['prompt']).__name__}.", "Give one text.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise RequestError(f"bs is {size!r}.", "Give a whole number from 1 up.")
        if isinstance(eta, bool) or not isinstance(eta, Real) or not 0 <= eta <= 1:
            raise RequestError(f"eta {eta!r} is outside [0, 1].", "0 adds no fresh noise, 1 all of it.")
        conditioner = self.model.conditioner
        assert isinstance(conditioner, OneTextConditioner)  # what this release is always wired with
        model = replace(self.model, conditioner=replace(conditioner, cut_negatives=self.cut_negatives))
        sampler = model.schedule.sampler
        noise_share = math.sqrt(eta) if sampler == "ddim" else None
        request = Request(**fields, count=count, seed=0, sampler=sampler, eta=noise_share)
        resolved = resolve(model, request)
        total = 1 + len(resolved.schedule.times(resolved.request.steps or 1))
        noise: BatchNoise | None = None

        def batch_of(rows: Sequence[Row]) -> Batch:
            nonlocal noise
            noise = BatchNoise(self.noise, total, noise)
            return Batch(rows, noise, mask=None if mask is None else mask.expand(len(rows), -1, -1, -1))

        images = shown(generate(accelerated_model(model), [resolved], size, batch_of, _result))
        if noise is not None:
            noise.finish()
        return images


class Kandinsky3T2IPipeline(Facade):
    """Text-to-image."""

    def __call__(
        self,
        text: str,
        negative_text: str | None = None,
        images_num: int = 1,
        bs: int = 1,
        width: int = 1024,
        height: int = 1024,
        guidance_scale: float = 3.0,
        steps: int = 50,
        eta: float = 1.0,
    ) -> list[Image]:
        """`images_num` images of a text, `bs` at once; guided by (w + 1) cond - w uncond.

        `eta` in 0 to 1 is the share of fresh noise in each step's variance.
        """
        check_kind(type(self).__name__, self.model, inpainting=False)
        fields = {"prompt": text, "negative_prompt": negative_text, "width": width, "height": height}
        return self._images({**fields, "guidance_scale": guidance_scale, "steps": steps}, images_num, bs, eta)


class Kandinsky3T2IFlashPipeline(Facade):
    """Text-to-image in four steps, without guidance."""

    def __call__(
        self,
        text: str,
        negative_text: str | None = None,
        images_num: int = 1,
        bs: int = 1,
        width: int = 1024,
        height: int = 1024,
        guidance_scale: float = 3.0,
        steps: int = 50,
        eta: float = 1.0,
    ) -> list[Image]:
        """`images_num` images of a text, `bs` at once.

        As in the original code, `guidance_scale`, `steps` and `eta` are accepted and do nothing; so is
        `negative_text`, of which a warning tells.
        """
        if negative_text is not None:
            warnings.warn("This network works without guidance: negative_text does nothing.", UserWarning, stacklevel=2)
        fields = {"prompt": text, "width": width, "height": height}
        return self._images(fields, images_num, bs, 1.0)


class Kandinsky3InpaintingPipeline(Facade):
    """Inpainting."""

    def __call__(
        self,
        text: str,
        image: Any,
        mask: Any,
        negative_text: str | None = None,
        images_num: int = 1,
        bs: int = 1,
        steps: int = 50,
        guidance_weight_text: float = 4,
        eta: float = 1.0,
    ) -> list[Image]:
        """`images_num` images in which `image` is repainted where `mask` (H, W) is 1.

        The image is made smaller where it has more than 1024 x 1024 pixels, and its sides multiples of 64; so
        are those of the results. What `mask` repaints in part is hidden as a whole.
        """
        check_kind(type(self).__name__, self.model, inpainting=True)
        source = open_image(image)
        width, height = _sides(*source.size)
        repaint = _resized(_mask(mask), width, height)
        fields = {
            "prompt": text,
            "negative_prompt": negative_text,
            "image": source.resize((width, height), Resampling.BICUBIC),
            "mask": repaint > 0,
            "width": width,
            "height": height,
            "guidance_scale": guidance_weight_text,
            "steps": steps,
        }
        told = torch.from_numpy(repaint)[None, None]
        return self._images(fields, images_num, bs, eta, told)


def _result(resolved: Resolved, images: list[Image], batch: int) -> Result:
    return Result(images, resolved.request.seeds, resolved.request.to_json(), batch=batch)


def _sides(width: int, height: int) -> tuple[int, int]:
    factor = max(1.0, math.sqrt(width * height / LARGEST_AREA))
    across, down = (max(round(side / factor) // 64 * 64, 64) for side in (width, height))
    return across, down


def _mask(mask: object) -> NDArray[np.float32]:
    """A mask (H, W) as numbers in 0..1, from an array, a tensor or a PIL image; raises RequestError for
    others."""
    if isinstance(mask, Image):
        mask = np.asarray(mask.convert("L"))
    elif isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    values = np.squeeze(mask) if isinstance(mask, np.ndarray) else np.zeros(0)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise RequestError(f"A {type(mask).__name__} is not a mask.", "Give an array (H, W) in which 1 is repainted.")
    numbers = values.astype(np.float32)
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 255):
        raise RequestError("The mask has numbers outside 0 to 1.", "1 is repainted and 0 is kept.")
    return numbers / np.float32(255) if numbers.max() > 1 else numbers


def _resized(mask: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """The mask at width x height, interpolated linearly between the centres of its pixels."""
    told = torch.from_numpy(mask.astype(np.float64))[None, None]
    sized = F.interpolate(told, size=(height, width), mode="bilinear", align_corners=False)
    return sized[0, 0].numpy().astype(np.float32)
