"""DreamBooth: a subject learns a name while its class stays as varied as it was (arXiv 2208.12242)."""

from collections.abc import Generator
from functools import partial
from pathlib import Path

from PIL import Image
from torch import nn

from kandinsky.core.errors import ConfigError
from kandinsky.core.metadata import write_picture
from kandinsky.training import events
from kandinsky.training.config import DreamBoothObjective, Stage, Target
from kandinsky.training.data.captions import Templates
from kandinsky.training.data.folder import read_bare_folder
from kandinsky.training.data.pictures import PictureSet, open_pictures
from kandinsky.training.finetune.base_checkpoint import Base
from kandinsky.training.finetune.examples import Beside, examples_of, lesson_of
from kandinsky.training.finetune.losses import add_adapters, tuning_task, unfreeze
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Source, Task

CLASS_FOLDER = "class"


def dreambooth_task(shop: Workshop, stage: Stage) -> Generator[events.Event, None, Task]:
    """Adapters, or all weights, on pictures of one subject and on the checkpoint's own pictures of its class.

    Both are learned from in every step, as many of one as of the other (their section 3.2).
    """
    objective = stage.objective_as(DreamBoothObjective)
    base = shop.base(stage)
    if base.model.hints:
        raise ConfigError(
            f"{base.pipe.model_id} follows hint pictures, and pictures of the class have none.",
            'Set method = "lora" or "full", or begin with another decoder.',
        )
    lesson = yield from lesson_of(
        shop, stage, base, Templates((objective.prompt,)), partial(_beside_its_class, shop, stage, base)
    )
    return tuning_task(shop, stage, base, lesson, trainable(base, objective))


def _beside_its_class(
    shop: Workshop, stage: Stage, base: Base, learned: PictureSet, source: Source
) -> Generator[events.Event, None, Source]:
    """Pictures of the subject in one shape, each with one of its class in that shape."""
    objective = stage.objective_as(DreamBoothObjective)
    if not objective.preserves:
        return source
    folder = shop.folder(stage.name) / CLASS_FOLDER
    if shop.config.data.buckets is not None:
        folder /= "x".join(str(side) for side in learned.shape)
    yield from draw_class(base, objective, folder, learned.shape, stage.name)
    grammar = Templates((objective.class_prompt,))
    pictures = open_pictures(read_bare_folder(folder), learned.shape, grammar=grammar).to(shop.device)
    others = yield from examples_of(shop, stage, base, pictures)
    return Beside(source, others, objective.class_weight)


def trainable(base: Base, objective: DreamBoothObjective) -> dict[Target, nn.Module]:
    """What learns, by target: adapters, or the networks themselves."""
    if objective.whole:
        return {target: unfreeze(base.learners(target, objective.with_texts)) for target in objective.targets}
    return {target: add_adapters(base, target, objective.adapter) for target in objective.targets}


def draw_class(
    base: Base, objective: DreamBoothObjective, folder: Path, shape: tuple[int, int], stage: str
) -> Generator[events.Event, None, None]:
    """Draws the pictures of the class that `folder` lacks; picture i is that of seed i."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(objective.class_pictures):
        path = folder / f"{number:05d}.png"
        if path.is_file() and _readable(path):
            continue
        yield events.Preparing(stage, "pictures of the class", number, objective.class_pictures)
        told = {
            "steps": objective.class_steps,
            "prior_guidance_scale": objective.class_prior_guidance_scale
            if "prior" in base.pipe.model.modules
            else None,
        }
        fields = {name: value for name, value in told.items() if value is not None}
        drawing = base.drawing(*shape)
        result = base.pipe.generate(objective.class_prompt, seed=number, **drawing, **fields)  # type: ignore[arg-type]
        write_picture(result.images[0], path)
    yield events.Preparing(stage, "pictures of the class", objective.class_pictures, objective.class_pictures)


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError):
        return False
    return True
