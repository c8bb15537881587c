"""The pipelines of Kandinsky 3 by the original code's names and in its conventions."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling

from kandinsky.compat.calls import signed
from kandinsky.compat.originals import OriginalFacade, OriginalNoise, check_kind, mask_numbers
from kandinsky.compat.terminal import shown
from kandinsky.conditioning.conditions import Batch
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Result
from kandinsky.core.images import Picture, open_image
from kandinsky.core.requests import Request, Row
from kandinsky.engine.acceleration.networks import accelerated_model
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import generate
from kandinsky.tasks.resolve import Resolved, resolve

LARGEST_AREA = 1024 * 1024
"""Input images above it are made smaller."""


class CutNegatives(OneTextConditioner):
    """A conditioner that cuts or pads a negative prompt to as many tokens as the prompt has, and reads the padding."""

    def keys(self, text: str, negative: str | None) -> list[tuple[str, int | None]]:
        """See `OneTextConditioner`."""
        found = super().keys(text, negative)
        return [*found[:1], *((other, len(self.reader.tokens(text)[0])) for other, _ in found[1:])]


class Facade(OriginalFacade):
    """A loaded model. A negative prompt has a length and a mask of its own; with `cut_negatives` it is cut or padded to
    the prompt's, as the original code does."""

    cut_negatives = False

    def __init__(self, model: Model) -> None:
        self.model = model

    def _images(self, fields: Mapping[str, object], count: int, size: int, eta: float) -> list[Image]:
        """The images of a request, `count` of its prompt, `size` at once; `eta` is the square of ours."""
        if not isinstance(fields["prompt"], str):
            raise RequestError(f"text is a {type(fields['prompt']).__name__}.", "Give one text.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise RequestError(f"bs is {size!r}.", "Give a whole number from 1 up.")
        if isinstance(eta, bool) or not isinstance(eta, Real) or not 0 <= eta <= 1:
            raise RequestError(f"eta {eta!r} is outside [0, 1].", "0 adds no fresh noise, 1 all of it.")
        conditioner = self.model.conditioner
        assert isinstance(conditioner, OneTextConditioner)  # what this release is always wired with
        made = CutNegatives(**vars(conditioner)) if self.cut_negatives else conditioner
        model = replace(self.model, conditioner=made)
        sampler = model.schedule.sampler
        noise_share = math.sqrt(eta) if sampler == "ddim" else None
        request = Request(**fields, count=count, seed=0, sampler=sampler, eta=noise_share)
        resolved = resolve(model, request)
        total = 1 + len(resolved.schedule.times(resolved.request.steps or 1))
        noise: OriginalNoise | None = None

        def batch_of(rows: Sequence[Row]) -> Batch:
            nonlocal noise
            noise = OriginalNoise(self.noise, total, axes=4, before=noise)
            return Batch(rows, noise)

        images = shown(generate(accelerated_model(model), [resolved], size, batch_of, _result))
        if noise is not None:
            noise.finish()
        return images


TEXT = "text negative_text images_num bs width height guidance_scale steps eta"
DEFAULTS: dict[str, object] = {
    "bs": 1,
    "eta": 1.0,
    "guidance_scale": 3.0,
    "guidance_weight_text": 4,
    "height": 1024,
    "images_num": 1,
    "negative_text": None,
    "steps": 50,
    "width": 1024,
}
"""What a parameter is unless it is given; all others are required."""


class Kandinsky3T2IPipeline(Facade):
    """Text-to-image."""

    __call__ = signed(
        lambda pipe, given: pipe._draw(given),
        TEXT,
        DEFAULTS,
        "`images_num` images of a text, `bs` at once; guided by (w + 1) cond - w uncond. `eta` in 0 to 1 is the share "
        "of fresh noise in each step's variance.",
    )

    def _draw(self, given: dict[str, Any]) -> list[Image]:
        check_kind(type(self).__name__, self.model, inpainting=False)
        fields = {"prompt": given["text"], "negative_prompt": given["negative_text"]}
        fields |= {name: given[name] for name in ("width", "height", "guidance_scale", "steps")}
        return self._images(fields, given["images_num"], given["bs"], given["eta"])


IDLE = ("negative_text", "guidance_scale", "steps", "eta")
"""Parameters that do nothing in four steps without guidance."""


class Kandinsky3T2IFlashPipeline(Facade):
    """Text-to-image in four steps, without guidance."""

    __call__ = signed(
        lambda pipe, given: pipe._draw(given),
        TEXT,
        DEFAULTS,
        "`images_num` images of a text, `bs` at once. As in the original code `negative_text`, `guidance_scale`, "
        "`steps` and `eta` do nothing; a warning names those that are given.",
    )

    def _draw(self, given: dict[str, Any]) -> list[Image]:
        if idle := [name for name in IDLE if given[name] != DEFAULTS[name]]:
            warnings.warn(
                f"This network takes four steps without guidance: {', '.join(idle)} does nothing.",
                UserWarning,
                stacklevel=4,
            )
        fields = {"prompt": given["text"], "width": given["width"], "height": given["height"]}
        return self._images(fields, given["images_num"], given["bs"], 1.0)


class Kandinsky3InpaintingPipeline(Facade):
    """Inpainting."""

    __call__ = signed(
        lambda pipe, given: pipe._paint(given),
        "text image mask negative_text images_num bs steps guidance_weight_text eta",
        DEFAULTS,
        "`images_num` images in which `image` is repainted where `mask` (H, W) is 1. The image is made smaller where "
        "it has more than 1024 x 1024 pixels, and its sides multiples of 64; so are those of the results. What `mask` "
        "repaints in part is hidden as a whole.",
    )

    def _paint(self, given: dict[str, Any]) -> list[Image]:
        check_kind(type(self).__name__, self.model, inpainting=True)
        source = open_image(given["image"])
        width, height = _sides(*source.size)
        repaint = torch.from_numpy(mask_numbers(given["mask"], "repainted")).double()
        sized = F.interpolate(repaint[None, None], size=(height, width), mode="bilinear", align_corners=False)
        fields = {
            "prompt": given["text"],
            "negative_prompt": given["negative_text"],
            "image": source.resize((width, height), Resampling.BICUBIC),
            "mask": Picture.of_numbers(sized[0].float()),
            "width": width,
            "height": height,
            "guidance_scale": given["guidance_weight_text"],
            "steps": given["steps"],
        }
        return self._images(fields, given["images_num"], given["bs"], given["eta"])


def _result(resolved: Resolved, images: list[Image], batch: int) -> Result:
    return Result(images, resolved.request.seeds, resolved.request.to_json(), batch=batch)


def _sides(width: int, height: int) -> tuple[int, int]:
    factor = max(1.0, math.sqrt(width * height / LARGEST_AREA))
    across, down = (max(round(side / factor) // 64 * 64, 64) for side in (width, height))
    return across, down
