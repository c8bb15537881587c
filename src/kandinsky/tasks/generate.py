"""The whole path of a request on one screen: conditions, start, loop, pictures."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.core.events import Decoding, Denoising, Event
from kandinsky.core.images import crop, to_pil
from kandinsky.core.requests import Request
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import Step, sample
from kandinsky.generations.model import Model
from kandinsky.tasks.check import sampler_of
from kandinsky.tasks.start import hint_tensor, start

if TYPE_CHECKING:
    from PIL.Image import Image


def generate(
    model: Model, request: Request, batches: Sequence[Batch]
) -> Generator[Event, None, "list[Image]"]:
    """Makes the pictures of all batches, PIL pictures of the size asked for; yields events on the way.

    `request` has every default filled in and went through `check`. All prompts are encoded first, so a text
    is encoded once however many pictures it has, then batch after batch is denoised and decoded. Draws, per
    picture: those of the conditioner, then the start, then the steps. Closing the generator stops at once
    and frees everything.
    """
    guided = is_guided(model.guidance(request.guidance_scale))
    conditions = yield from model.conditioner.encode(batches, request, guided)
    images: list[Image] = []
    for index, (batch, condition) in enumerate(zip(batches, conditions, strict=True)):
        latents: Tensor | None = None
        with closing(denoise(model, request, batch, condition)) as steps:
            for step in steps:
                latents = step.x
                number, total = index * step.total + step.index + 1, len(batches) * step.total
                yield Denoising("decoder", number, total, _previewer(model, step.prediction.x0))
        assert latents is not None  # the loop refuses to run without steps
        yield Decoding()
        images += to_pil(crop(model.codec.decode(latents), request.width or 0, request.height or 0))
    return images


def denoise(
    model: Model, request: Request, batch: Batch, conditions: Conditions
) -> Generator[Step, Tensor | None, None]:
    """Denoises the pictures of a batch together; the last step's `x` is the result, latents (B, C, h, w).

    Latents that are sent into the generator take the place of the step's.
    """
    schedule = model.schedule_of(request.sampler, request.steps or 1)
    sampler = sampler_of(model, request)
    begin = start(model, request, batch)
    cond, uncond = conditions.cond, conditions.uncond
    condition = cond if uncond is None else uncond.joined(cond)
    condition = replace(condition, extra=begin.extra)
    if model.hints:
        condition = replace(condition, hint=hint_tensor(model, request, batch))
    with torch.no_grad():
        prepared = model.network.prepare(condition, begin.times)
    denoiser = make_denoiser(
        lambda x, t: prepared.step(x.to(model.dtype), t),
        schedule.process,
        schedule.read,
        None if uncond is None else model.guidance(request.guidance_scale),
        schedule.constraints,
        begin.paste,
    )
    yield from sample(sampler, denoiser, begin.x, begin.times, batch.rng, begin.project)


def _previewer(model: Model, x0: Tensor) -> "Callable[[], list[Image]]":
    def preview() -> "list[Image]":
        return to_pil(model.codec.preview(x0))

    return preview
