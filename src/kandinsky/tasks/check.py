"""Whether a model can do what a request asks, found out before any work is done."""

from collections.abc import Sequence

from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.requests import Request, Row
from kandinsky.diffusion.guidance import is_guided, joint
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.samplers.base import Sampler
from kandinsky.generations.model import Model


def check(model: Model, request: Request) -> None:
    """Raises RequestError, naming what does not fit, when `model` cannot do `request` (defaults filled in).

    That is: a sampler that is unknown or cannot take this eta, more steps than the process has times, an
    inpainting checkpoint without a mask, a hint that is missing or not understood, an interval of guidance
    where there is none, and prompts that the conditioner refuses.
    """
    model.schedule_of(request.sampler).times(request.steps or 1)
    sampler_of(model, request)
    if model.extra_channels and request.mask is None:
        raise RequestError(
            f"{model.name}: this is an inpainting checkpoint, and it needs an image with a mask.",
            "Give image= and mask=, or load the text-to-image checkpoint.",
        )
    if model.hints and request.hint is None:
        raise RequestError(
            f"{model.name}: this checkpoint needs a hint picture.", "Give hint=, for example a depth map."
        )
    if request.hint is not None and not model.hints:
        raise RequestError(
            f"{model.name}: this checkpoint does not take a hint.",
            "Load a ControlNet checkpoint, or leave hint out.",
        )
    guided = is_guided(guidance_of(model, request.rows()))
    if request.guidance_interval is not None and not guided:
        raise RequestError(
            f"guidance_interval is given, but a guidance_scale of {request.guidance_scale} guides nothing.",
            "Leave it out, or raise the scale.",
        )
    model.conditioner.check(request, guided)


def guidance_of(model: Model, rows: Sequence[Row]) -> float | Tensor | None:
    """The guidance scale of pictures as `combine` has it: a number, or a tensor (B,) where they differ."""
    scale = joint([model.guidance(row.guidance_scale) for row in rows])
    return scale.to(model.working_dtype).to(model.device) if isinstance(scale, Tensor) else scale


def sampler_of(model: Model, request: Request) -> Sampler:
    """The sampler of a request, with the settings that the model has for it.

    Raises RequestError for an unknown name, and for an eta that cannot act in it.
    """
    schedule = model.schedule_of(request.sampler, request.steps or 1)
    eta = model.own_eta(request.sampler) if request.eta is None else request.eta
    name = request.sampler or schedule.sampler
    return make_sampler(name, schedule.process, variance=schedule.variance, eta=eta)
