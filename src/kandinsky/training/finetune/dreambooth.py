"""DreamBooth: a subject learns a name while its class stays as varied as it was (arXiv 2208.12242)."""

import json
from collections.abc import Generator
from pathlib import Path

from kandinsky.core.errors import ConfigError, KandinskyError
from kandinsky.core.images import open_image
from kandinsky.core.metadata import metadata_of, read_metadata, single, write_image
from kandinsky.core.requests import EFFECTIVE_GUIDANCE, Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.training import events
from kandinsky.training.config.objectives import DreamBoothObjective
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.caption import Templates
from kandinsky.training.data.folder import Record, folder_of
from kandinsky.training.data.images import ImageSet, open_images
from kandinsky.training.examples import Examples, ExampleSource, PriorPreservationSource, examples_of, training_data
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.finetune.tuning import tuning_task
from kandinsky.training.task import Task

CLASS_FOLDER = "class"


def dreambooth_task(ctx: TrainContext, stage: Stage) -> Generator[events.Event, None, Task[Examples]]:
    """Adapters, or all weights, on images of one subject and on the checkpoint's own images of its class.

    Both are learned from in every step, as many of one as of the other (their section 3.2).
    """
    objective = stage.objective_as(DreamBoothObjective)
    base = open_base(ctx, stage)
    if base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} follows hint images, and images of the class have none.",
            'Set method = "lora" or "full", or begin with another decoder.',
        )

    def with_class(subject: ImageSet, source: ExampleSource) -> Generator[events.Event, None, ExampleSource]:
        """Images of the subject in one shape, each with one of its class in that shape."""
        if not objective.preserves:
            return source
        folder = ctx.run.of(stage.name) / CLASS_FOLDER
        if ctx.config.data.buckets is not None:
            folder /= "x".join(str(side) for side in subject.shape)
        if ctx.draws:
            yield from draw_class(base, objective, folder, subject.shape, stage.name)
        records = [Record(_name(number), 0, "", "train") for number in range(objective.class_images)]
        drawn = folder_of(folder, records, Templates((objective.class_prompt,)))
        images = open_images(drawn, subject.shape).to(ctx.device)
        others = yield from examples_of(ctx, stage, base, images)
        return PriorPreservationSource(source, others, objective.class_weight)

    size, captioner = ctx.data.size(stage, base.size), Templates((objective.prompt,))
    data = yield from training_data(ctx, stage, base, size, captioner, with_class, base.readers(stage.targets))
    return tuning_task(ctx, stage, base, data)


def draw_class(
    base: BaseCheckpoint, objective: DreamBoothObjective, folder: Path, shape: tuple[int, int], stage: str
) -> Generator[events.Event, None, None]:
    """Draws the images of the class that `folder` lacks; image i is that of seed i.

    Each file says which request and which model made it: one that another made is drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = base.request_fields(*shape)
    if objective.class_steps is not None:
        fields["steps"] = objective.class_steps
    if base.prior is not None and objective.class_prior_guidance_scale is not None:
        fields["prior_guidance_scale"] = objective.class_prior_guidance_scale
    for number in range(objective.class_images):
        path, request = folder / _name(number), Request(objective.class_prompt, seed=number, **fields)
        if _is_of(path, base.pipe, request):
            continue
        yield events.Preparing(stage, "images of the class", number, objective.class_images)
        result = base.pipe.generate(objective.class_prompt, seed=number, **fields)
        write_image(result.images[0], path, metadata_of(result, 0))
    yield events.Preparing(stage, "images of the class", objective.class_images, objective.class_images)


def _name(number: int) -> str:
    return f"{number:05d}.png"


def _is_of(path: Path, pipe: Pipeline, request: Request) -> bool:
    """Whether a file is a whole image that this pipeline made for this request."""
    try:
        open_image(path)
        found = read_metadata(path)
    except KandinskyError:
        return False
    asked = json.dumps([single(pipe.checked(request).to_json(), 0), pipe.model_id, pipe.settings], sort_keys=True)
    made = {name: value for name, value in found.request.items() if name != EFFECTIVE_GUIDANCE}
    return json.dumps([made, found.model, found.settings], sort_keys=True) == asked
