"""What the facades of the original code share: a loaded pipeline, its noise, and one way to run a request."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from kandinsky.compat.kinds import check_kind
from kandinsky.compat.terminal import shown
from kandinsky.core.requests import Request
from kandinsky.core.rng import Rng
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.schedule import Schedule
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.model import Model

T = TypeVar("T")


def returned(run: Generator[object, None, T]) -> T:
    """Runs a generator to its end and gives what it returns."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


class Facade:
    """A loaded pipeline for `task_type`.

    `noise(shape)` draws what the original code would draw: from torch's own generator on the model's device,
    so that `torch.manual_seed` makes calls repeatable. With `shared_threshold` the predictions of all
    images are bound by what is measured on the first one, as the original code does, and images depend
    on their batch; without it each is bound by its own.
    """

    shared_threshold = False

    def __init__(self, pipe: Pipeline, task_type: str = "text2img") -> None:
        self.pipe = pipe
        self.task_type = task_type

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pipe.model.device

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Draws a standard normal tensor, in float32 as the original code does whatever its networks
        compute in."""
        return torch.randn(shape, device=self.device)

    def _check_kind(self, given: Mapping[str, object]) -> None:
        """Raises RequestError when the U-Net is not of the kind that a call with these inputs needs."""
        inpainting = "img_mask" in given
        who = f"{type(self).__name__}.generate_inpainting" if inpainting else "This method"
        check_kind(who, self.pipe.model, inpainting)

    def _bound(self, schedules: Mapping[str, Schedule]) -> dict[str, Schedule]:
        """The schedules with thresholds measured as `shared_threshold` says."""

        def measured(part: Constraint) -> Constraint:
            return replace(part, of_first=self.shared_threshold and part.kind == "percentile")

        return {
            name: replace(schedule, constraints=tuple(map(measured, schedule.constraints)))
            for name, schedule in schedules.items()
        }

    def _run(
        self, model: Model, prompt: Any, fields: Mapping[str, Any], rng: Rng, progress: bool = True
    ) -> list[Image]:
        """The images of one request, all in one batch; what was not read of a prompt is warned of."""
        request = Request(prompt, **fields)
        pipe = Pipeline(model, batch_size=request.size)
        return shown(pipe.run(request, lambda _: rng), progress)
