"""What the facades of the original code share: a loaded pipeline, its noise, and one way to run a request."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from kandinsky.compat.kandinsky2.inputs import SIDE, sampler_name
from kandinsky.compat.originals import OriginalFacade, OriginalNoise, check_kind
from kandinsky.compat.terminal import shown
from kandinsky.core.images import round_up
from kandinsky.core.requests import Request
from kandinsky.core.rng import Rng
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.schedule import Schedule
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.model import Model


class SharedThreshold(Constraint):
    """A percentile that is measured on the first image of a batch for all of them, as the original code does."""

    def thresholded(self, x0: Tensor) -> Tensor:
        """See `Constraint`; what the first image's bound is, bounds the others."""
        bound = torch.quantile(x0[:1].abs().flatten(1), self.ratio, dim=1).clamp(1.0, self.max)
        return torch.clamp(x0, -bound, bound) / bound


def shared(part: Constraint) -> Constraint:
    """The same constraint, a percentile measured on the first image."""
    return SharedThreshold(**vars(part)) if part.kind == "percentile" else part


class Facade(OriginalFacade):
    """A loaded pipeline for `task_type`.

    With `shared_threshold` the predictions of all images are bound by what is measured on the first one, as the
    original code does, and images depend on their batch; without it each is bound by its own.
    """

    shared_threshold = False

    def __init__(self, pipe: Pipeline, task_type: str = "text2img") -> None:
        self.pipe = pipe
        self.task_type = task_type

    @property
    def model(self) -> Model:  # type: ignore[override]
        """The pipeline's model as it is now."""
        return self.pipe.model

    def _check_kind(self, given: Mapping[str, object]) -> None:
        """Raises RequestError when the U-Net is not of the kind that a call with these inputs needs."""
        inpainting = "img_mask" in given
        who = f"{type(self).__name__}.generate_inpainting" if inpainting else "This method"
        check_kind(who, self.model, inpainting)

    def _bound(self, schedules: Mapping[str, Schedule]) -> dict[str, Schedule]:
        """The schedules with thresholds measured as `shared_threshold` says."""
        if not self.shared_threshold:
            return dict(schedules)
        return {
            name: replace(schedule, constraints=tuple(map(shared, schedule.constraints)))
            for name, schedule in schedules.items()
        }

    def _images(
        self,
        model: Model,
        prompt: Any,
        given: Mapping[str, Any],
        fields: Mapping[str, Any],
        noise: OriginalNoise,
        progress: bool = True,
    ) -> list[Image]:
        """The images of a call's settings and further request fields, of exactly `w` x `h`."""
        self._check_kind(given)
        width, height = given["w"], given["h"]
        if "image" not in fields:
            # Made from noise they are of the next size that the published networks can, and then cropped.
            width, height = round_up(width, SIDE), round_up(height, SIDE)
        settings = {"steps": given["num_steps"], "guidance_scale": given["guidance_scale"]}
        settings |= {"sampler": sampler_name(given["sampler"]), "width": width, "height": height}
        images = self._run(model, prompt, {**settings, **fields}, noise, progress)
        return [image.crop((0, 0, given["w"], given["h"])) for image in images]

    def _run(
        self, model: Model, prompt: Any, fields: Mapping[str, Any], rng: Rng, progress: bool = True
    ) -> list[Image]:
        """The images of one request, all in one batch; what was not read of a prompt is warned of."""
        request = Request(prompt, **fields)
        pipe = Pipeline(model, batch_size=request.size)
        return shown(pipe.run(request, lambda _: rng), progress)
