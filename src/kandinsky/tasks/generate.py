"""The whole path of a request on one screen: conditions, start, loop, pictures."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from torch import Tensor

from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.core.events import Decoding, Denoising, Event
from kandinsky.core.images import crop, to_pil
from kandinsky.core.requests import Request
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.guidance import is_guided
from kandinsky.diffusion.loop import Step, sample
from kandinsky.generations.model import Model
from kandinsky.tasks.check import guidance_of, sampler_of
from kandinsky.tasks.networks import interval_of, networks
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
    conditions = yield from encode(model, request, batches)
    images: list[Image] = []
    for index, (batch, condition) in enumerate(zip(batches, conditions, strict=True)):
        images += yield from draw(model, request, batch, condition, index, len(batches))
    return images


def encode(
    model: Model, request: Request, batches: Sequence[Batch]
) -> Generator[Event, None, list[Conditions]]:
    """The conditions of all batches. What is asked of single pictures is read from their rows, all else
    from `request`."""
    guided = any(is_guided(guidance_of(model, batch.rows)) for batch in batches)
    return (yield from model.conditioner.encode(batches, request, guided))


def draw(
    model: Model, request: Request, batch: Batch, conditions: Conditions, index: int = 0, of: int = 1
) -> Generator[Event, None, "list[Image]"]:
    """Denoises and decodes one batch, number `index` (from 0) of `of`."""
    latents: Tensor | None = None
    with closing(denoise(model, request, batch, conditions)) as steps:
        for step in steps:
            latents = step.x
            number, total = index * step.total + step.index + 1, of * step.total
            yield Denoising("decoder", number, total, _previewer(model, step.prediction.x0))
    assert latents is not None  # the loop refuses to run without steps
    yield Decoding()
    return to_pil(crop(model.codec.decode(latents), request.width or 0, request.height or 0))


def denoise(
    model: Model, request: Request, batch: Batch, conditions: Conditions
) -> Generator[Step, Tensor | None, None]:
    """Denoises the pictures of a batch together; the last step's `x` is the result, latents (B, C, h, w).

    Latents that are sent into the generator take the place of the step's.
    """
    schedule = model.schedule_of(request.sampler, request.steps or 1)
    sampler = sampler_of(model, request)
    begin = start(model, request, batch)
    beside = {"extra": begin.extra}
    if model.hints:
        beside["hint"] = hint_tensor(model, request, batch)
    process, interval = schedule.process, interval_of(request.guidance_interval)
    network, alone = networks(model, conditions, beside, begin.times, process.T, interval, request.reuse or 1)
    denoiser = make_denoiser(
        network,
        process,
        schedule.parametrization,
        None if conditions.uncond is None else guidance_of(model, batch.rows),
        schedule.constraints,
        begin.paste,
        interval=interval,
        alone=alone,
    )
    yield from sample(sampler, denoiser, begin.x, begin.times, batch.rng, begin.project)


def _previewer(model: Model, x0: Tensor) -> "Callable[[], list[Image]]":
    def preview() -> "list[Image]":
        return to_pil(model.codec.preview(x0))

    return preview
