"""The whole path of requests: group, encode, start, sample, decode."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Batch, Conditions, Encoded
from kandinsky.core.errors import KandinskyError
from kandinsky.core.events import Decoding, Denoising, Event, Events, Finished, Result
from kandinsky.core.images import crop, to_pil
from kandinsky.core.requests import Request, Row, per_prompt
from kandinsky.diffusion.denoiser import Network, make_denoiser
from kandinsky.diffusion.guidance import is_guided, joint
from kandinsky.diffusion.loop import Trajectory, sample
from kandinsky.generations.model import Model
from kandinsky.tasks.paste_back import pasted_back
from kandinsky.tasks.resolve import Resolved
from kandinsky.tasks.start import batch_hint, start

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
BatchMaker: TypeAlias = Callable[[Sequence[Row]], Batch]
Finish: TypeAlias = "Callable[[Resolved, list[Image], int], Result]"

NOT_FINITE = "Perhaps guidance_scale {} is too high, or the dtype too narrow for this model: try float32."
WAVE = 64
"""How many images have their prompts encoded before they are drawn: conditions take memory, and encoders
that come and go should not do so for each batch."""
COMMON = tuple(name for name in Request.model_fields if name not in (*per_prompt(), "seed", "count"))
"""Fields of a request in which the images of a batch may not differ."""


@dataclass(frozen=True)
class Member:
    """Image `place` of request number `request`."""

    request: int
    place: int
    row: Row


@dataclass(frozen=True)
class Group:
    """Images that can be in one batch; `resolved` holds what they have in common."""

    resolved: Resolved
    members: list[Member] = field(default_factory=list)


def generate(
    model: Model, requests: Sequence[Resolved], batch_size: int, batch_of: BatchMaker, finish: Finish
) -> Events:
    """Draws the images of all requests, at most `batch_size` of them at once, and yields what happens.

    `batch_of` gives rows their noise; `finish(request, images, batch)` makes the result of a request, of
    whose images up to `batch` were drawn at once. Draws, per image: those of the conditioner, then the start,
    then the steps. Closing the generator stops at once and frees everything.
    """
    images: list[dict[int, Image]] = [{} for _ in requests]
    largest = [0] * len(requests)
    for group in groups_of(requests):
        done, parts = 0, portions(group.members, batch_size)
        for wave in portions(parts, max(1, WAVE // batch_size)):
            batches = [batch_of([one.row for one in part]) for part in wave]
            conditions = yield from encode(model, group.resolved, batches)
            for part, batch, condition in zip(wave, batches, conditions, strict=True):
                found = yield from draw(model, group.resolved, batch, condition, done, len(parts))
                done += 1
                for one, image in zip(part, found, strict=True):
                    images[one.request][one.place] = image
                    largest[one.request] = max(largest[one.request], len(part))
                for index in sorted({one.request for one in part}):
                    if len(made := images[index]) == len(requests[index].rows):
                        images[index] = {}
                        given_images = [made[place] for place in sorted(made)]
                        yield Finished(finish(requests[index], given_images, largest[index]), index)


def groups_of(requests: Sequence[Resolved]) -> list[Group]:
    """Groups the images of all requests that can share a batch, in their order.

    Guided and unguided images are kept apart: these need half as many calls of a network.
    """
    groups: dict[object, Group] = {}
    for index, resolved in enumerate(requests):
        for place, row in enumerate(resolved.rows):
            group = groups.setdefault(batch_key(resolved, row), Group(resolved))
            group.members.append(Member(index, place, row))
    return list(groups.values())


def batch_key(resolved: Resolved, row: Row | None = None) -> object:
    """What is equal in images that can be in one batch: of one row of a request, or of its first."""
    row = resolved.rows[0] if row is None else row
    common = tuple(getattr(resolved.request, name) for name in COMMON)
    given = tuple(image is not None for image in (row.image, row.mask, row.hint))
    return common, given, is_guided(row.guidance_scale), is_guided(row.prior_guidance_scale)


def portions(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Splits items into parts of a size; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def encode(model: Model, resolved: Resolved, batches: Sequence[Batch]) -> Encoded:
    """The conditions of all batches; a text is encoded once, however many images it has."""
    guided = any(is_guided(row.guidance_scale) for batch in batches for row in batch.rows)
    return (yield from model.conditioner.encode(batches, resolved.prior_steps, guided))


def draw(
    model: Model, resolved: Resolved, batch: Batch, conditions: Conditions, index: int = 0, of: int = 1
) -> Generator[Event, None, "list[Image]"]:
    """Denoises and decodes one batch, number `index` (from 0) of `of`."""
    latents: Tensor | None = None
    with closing(denoise(model, resolved, batch, conditions)) as steps:
        for step in steps:
            latents, x0 = step.x, step.prediction.x0
            number, total = index * step.total + step.index + 1, of * step.total
            yield Denoising("decoder", number, total, lambda x0=x0: to_pil(model.codec.preview(x0)))  # type: ignore[misc]
    yield Decoding()
    images = _finite(model.codec.decode(_finite(latents, "latents", resolved)), "images", resolved)
    drawn, request = to_pil(crop(images, resolved.width, resolved.height)), resolved.request
    return pasted_back(drawn, batch.rows, request.mask_blur or 0) if request.paste_back else drawn


def _finite(values: Tensor | None, what: str, resolved: Resolved) -> Tensor:
    if values is None or not values.isfinite().all():
        raise KandinskyError(f"The {what} are not finite.", NOT_FINITE.format(resolved.request.guidance_scale))
    return values


def denoise(model: Model, resolved: Resolved, batch: Batch, conditions: Conditions) -> Trajectory:
    """Denoises the images of a batch together; the last step's `x` is the result, latents (B, C, h, w).

    Latents that are sent into the generator take the place of the step's.
    """
    begin, schedule = start(model, resolved, batch), resolved.schedule
    shared = {"extra": begin.extra}
    if model.hints:
        shared["hint"] = batch_hint(model, resolved, batch)
    network, conditional_only = _prepared(model, resolved, conditions, shared)
    scale = None if conditions.uncond is None else joint([row.guidance_scale for row in batch.rows])
    if isinstance(scale, Tensor):
        scale = scale.to(model.working_dtype).to(model.device)
    fixed = schedule.process, schedule.parametrization, scale, schedule.constraints, begin.paste
    denoiser = make_denoiser(network, *fixed, interval=resolved.interval, conditional_only=conditional_only)
    yield from sample(resolved.sampler, denoiser, begin.x, begin.times, batch.rng, begin.project)


@torch.no_grad()
def _prepared(
    model: Model, resolved: Resolved, conditions: Conditions, shared: Mapping[str, Tensor | None]
) -> tuple[Network, Network | None]:
    """The network for guided times, or for all where none are, and that for the others' conditional half.

    `shared` are fields of the conditions that both halves of guidance share.
    """
    times, T = resolved.begin.times, resolved.schedule.process.T
    cond, uncond = conditions.cond, conditions.uncond
    guided = [t for t in times if uncond is not None and resolved.interval.holds(t, T)]
    unguided = [t for t in times if t not in guided]
    # Deep features are computed anew where guidance begins or ends, since rows differ there.
    runs = [list(run) for _, run in groupby(times, lambda t: t in guided)]
    deep_at = None if resolved.reuse == 1 else [t for run in runs for t in run[:: resolved.reuse]]

    def closed(condition: object, at: Sequence[float]) -> Network:
        step = model.network.prepare(replace(condition, **shared), at, deep_at).step  # type: ignore[type-var]
        return lambda x, t: step(x.to(model.dtype), t)

    conditional_only = closed(cond, unguided) if unguided else None
    if uncond is not None and guided:
        return closed(uncond.joined(cond), guided), conditional_only
    assert conditional_only is not None  # there is at least one time
    return conditional_only, None
