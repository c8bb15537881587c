"""Resolves a request for a model: fills in every default, looks everything up once, and checks it."""

from dataclasses import dataclass

from kandinsky.core.errors import RequestError
from kandinsky.core.requests import Request, Row
from kandinsky.diffusion.guidance import EVERYWHERE, Interval, is_guided
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.samplers.base import Sampler
from kandinsky.diffusion.schedule import Beginning, Schedule
from kandinsky.diffusion.times import tail
from kandinsky.generations.model import Model


@dataclass(frozen=True, eq=False)
class Resolved:
    """A request with every value present, checked for a model.

    `request` has every default filled in, and is what metadata stores. `rows` are its images, with guidance
    scales as `combine` has them. `begin` holds the times to do, and to which of them an image is noised.
    `width` and `height` are in pixels, those of the result.
    """

    request: Request
    rows: tuple[Row, ...]
    width: int
    height: int
    strength: float
    schedule: Schedule
    sampler: Sampler
    begin: Beginning
    interval: Interval
    reuse: int
    prior_steps: int


def resolve(model: Model, request: Request) -> Resolved:
    """Fills a request with the model's defaults and looks up what follows from it.

    Raises RequestError, naming what does not fit: the sampler or its eta, more steps than there are times, a
    mask or a hint that is missing or not understood, guidance that cannot act, prompts that cannot be read.
    """
    name = request.sampler or model.defaults.get("sampler") or model.schedule.sampler
    schedule = model.schedules.get(name, model.schedule)
    own_eta = schedule.eta if name == schedule.sampler else None
    filled = request.filled({"eta": own_eta, **model.defaults, "sampler": name})
    steps, strength = filled.steps or 1, 1.0 if filled.strength is None else filled.strength
    schedule = schedule.taken(steps)
    rows = tuple(filled.rows(model.guidance_offset))
    _check(model, filled, any(is_guided(row.guidance_scale) for row in rows))
    assert filled.width is not None  # filled in
    assert filled.height is not None
    return Resolved(
        request=filled,
        rows=rows,
        width=filled.width,
        height=filled.height,
        strength=strength,
        schedule=schedule,
        sampler=make_sampler(name, schedule.process, variance=schedule.variance, eta=filled.eta),
        begin=_beginning(schedule, filled, steps, strength),
        interval=EVERYWHERE if filled.guidance_interval is None else Interval(*filled.guidance_interval),
        reuse=filled.reuse or 1,
        prior_steps=filled.prior_steps or 1,
    )


def _beginning(schedule: Schedule, request: Request, steps: int, strength: float) -> Beginning:
    if request.image is not None and request.mask is None:
        return schedule.beginning(steps, strength)
    times = tail(schedule.times(steps), strength)
    return Beginning(times, schedule.process, times[0])


def _check(model: Model, request: Request, guided: bool) -> None:
    if model.extra_channels and request.mask is None:
        raise RequestError(
            f"{model.name}: this is an inpainting checkpoint, and it needs an image with a mask.",
            "Give image= and mask=, or load the text-to-image checkpoint.",
        )
    if model.hints and request.hint is None:
        raise RequestError(f"{model.name}: this checkpoint needs a hint image.", "Give hint=, for example a depth map.")
    if request.hint is not None and not model.hints:
        raise RequestError(
            f"{model.name}: this checkpoint does not take a hint.", "Load a ControlNet checkpoint, or leave hint out."
        )
    if request.guidance_interval is not None and not guided:
        raise RequestError(
            f"guidance_interval is given, but a guidance_scale of {request.guidance_scale} guides nothing.",
            "Leave it out, or raise the scale.",
        )
    model.conditioner.check(request, guided)
