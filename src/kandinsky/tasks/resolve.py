"""Resolves a request for a model: fills in every default, looks everything up once, and checks it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kandinsky.core.errors import RequestError
from kandinsky.core.events import Finished, Warned
from kandinsky.core.prompt_weights import OTHER_SYNTAX, read_as_written
from kandinsky.core.requests import Mix, Request, Row
from kandinsky.diffusion.guidance import EVERYWHERE, Interval, is_guided
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.samplers.base import Sampler
from kandinsky.diffusion.schedule import Beginning, Schedule
from kandinsky.diffusion.times import tail
from kandinsky.generations.model import Model

FAR = 2.0
"""Times the trained area, or its inverse, from which on a size is warned of."""


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
    if request.image is not None and not request.repaints:
        return schedule.beginning(steps, strength)
    times = tail(schedule.times(steps), strength)
    return Beginning(times, schedule.process, times[0])


def _check(model: Model, request: Request, guided: bool) -> None:
    if model.extra_channels or model.hints or request.hint is not None:
        _check_inputs(model, request)
    if request.guidance_interval is not None and not guided:
        raise RequestError(
            f"guidance_interval is given, but a guidance_scale of {request.guidance_scale} guides nothing.",
            "Leave it out, or raise the scale.",
        )
    model.conditioner.check(request, guided)


def _check_inputs(model: Model, request: Request) -> None:
    if model.extra_channels and not request.repaints:
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


def notes(model: Model, resolved: Resolved) -> list[Warned]:
    """What to know of a request before it is drawn."""
    area, own = resolved.width * resolved.height, model.defaults["width"] * model.defaults["height"]
    found = [] if own / FAR <= area <= own * FAR else [_far(resolved, model, area > own)]
    if not resolved.request.prompt_weights:
        found += [Warned(read_as_written(text), text) for text in texts_of(resolved.rows) if OTHER_SYNTAX.search(text)]
    if any(row.negative_prompt and not is_guided(row.guidance_scale) for row in resolved.rows):
        found += _unheard(resolved)
    return found


def with_warnings(event: Finished, warned: Sequence[Warned], resolved: Resolved, model: Model) -> Finished:
    """The event, its result with the warnings that are about its request or one of its texts."""
    own, texts = notes(model, resolved), texts_of(resolved.rows)
    about = [one.message for one in warned if (one in own if one.text is None else one.text in texts)]
    return replace(event, result=replace(event.result, warnings=about))


def texts_of(rows: Sequence[Row]) -> list[str]:
    """The texts of prompts, mixes and negative prompts, each once."""
    prompts = [item for row in rows for item in (row.prompt.items if isinstance(row.prompt, Mix) else [row.prompt])]
    negatives = [text for row in rows for text in (row.negative_prompt, row.prior_negative_prompt)]
    return [*dict.fromkeys(text for text in (*prompts, *negatives) if isinstance(text, str))]


def _far(resolved: Resolved, model: Model, larger: bool) -> Warned:
    """A size whose area is far from that of the model's own."""
    asked, own = f"{resolved.width} x {resolved.height}", "{width} x {height}".format(**model.defaults)
    effect = "repeat things, or lose them in patterns" if larger else "show crops and scraps"
    return Warned(
        f"{asked} pixels are far from the model's own size, {own}: images may {effect}. "
        f"Draw at about {own}, and resize the image."
    )


def _unheard(resolved: Resolved) -> list[Warned]:
    """Negative prompts that neither the decoder nor a prior is guided away from."""
    deaf = [row for row in resolved.rows if row.negative_prompt and not is_guided(row.guidance_scale)]
    texts = dict.fromkeys(row.negative_prompt for row in deaf if not is_guided(row.prior_guidance_scale))
    return [
        Warned(f"The negative prompt {text!r} does nothing: nothing is guided. Raise guidance_scale above 1.", text)
        for text in texts
    ]
