"""The whole path of a request on one screen: conditions, start, loop, pictures."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.events import Decoding, Denoising, Event
from kandinsky.core.images import crop, to_pil, to_tensor
from kandinsky.core.requests import Request, Row
from kandinsky.core.rng import Rng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.generations.model import Model
from kandinsky.tasks.start import start

if TYPE_CHECKING:
    from PIL.Image import Image


def latents(model: Model, request: Request, rows: Sequence[Row], rng: Rng) -> Generator[Event, None, Tensor]:
    """Denoises the pictures of `rows` together and returns their latents (B, C, h, w); yields events on the way.

    `request` has every default filled in. Draws, per picture: those of the conditioner, then the start, then the
    steps. Closing the generator stops at once and frees everything.
    """
    schedule = model.schedule
    sampler = make_sampler(
        request.sampler or schedule.sampler, schedule.process, variance=schedule.variance, eta=request.eta
    )
    guided = is_guided(request.guidance_scale)
    conditions = yield from model.conditioner.encode(rows, request, rng, guided)
    begin = start(model, request, rows, rng)
    condition = conditions.cond if conditions.uncond is None else conditions.uncond.joined(conditions.cond)
    copies = 1 if conditions.uncond is None else 2
    condition = replace(
        condition, extra=_repeated(begin.extra, copies), hint=_hint(model, request, rows, copies)
    )
    with torch.no_grad():
        prepared = model.network.prepare(condition, begin.times)
    denoise = make_denoiser(
        lambda x, t: prepared.step(x.to(model.dtype), t),
        schedule.process,
        schedule.read,
        request.guidance_scale if guided else None,
        schedule.constraint,
    )
    x = begin.x
    with closing(sample(sampler, denoise, x, begin.times, rng, begin.project)) as steps:
        for step in steps:
            x = step.x
            preview = _previewer(model, step.prediction.x0)
            yield Denoising("decoder", step.index + 1, step.total, preview)
    return x


def generate(
    model: Model, request: Request, rows: Sequence[Row], rng: Rng
) -> Generator[Event, None, "list[Image]"]:
    """`latents`, then decoded, cropped to the size asked for, as PIL pictures."""
    x = yield from latents(model, request, rows, rng)
    yield Decoding()
    return to_pil(crop(model.codec.decode(x), request.width or 0, request.height or 0))


def _previewer(model: Model, x0: Tensor) -> "Callable[[], list[Image]]":
    def preview() -> "list[Image]":
        return to_pil(model.codec.preview(x0))

    return preview


def _repeated(extra: Tensor | None, copies: int) -> Tensor | None:
    return None if extra is None else extra.repeat(copies, 1, 1, 1)


def _hint(model: Model, request: Request, rows: Sequence[Row], copies: int) -> Tensor | None:
    """Hint pictures as (copies x B, 3, H, W) in [0, 1]; RequestError when missing or not understood."""
    hints = [row.hint.image for row in rows if row.hint is not None]
    if not hints and not model.hints:
        return None
    if not model.hints:
        raise RequestError(
            f"{model.name} does not take a hint.", "Load a ControlNet checkpoint, or leave hint out."
        )
    if not hints:
        raise RequestError(f"{model.name} needs a hint picture.", "Give hint=, for example a depth map.")
    pixels = to_tensor(hints, request.width or 0, request.height or 0, model.multiple)
    return ((pixels + 1) / 2).to(model.device, model.dtype).repeat(copies, 1, 1, 1)
