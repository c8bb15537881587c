"""The memory that a step of a run will take, counted on fake tensors."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import Pipeline
from kandinsky.engine.text_encoders import captions_of
from kandinsky.generations.model import Model
from kandinsky.training.activation_checkpointing import Inside, recompute
from kandinsky.training.api import ConfigSource, choose_device, open_config
from kandinsky.training.config.objectives import DistillObjective, DreamBoothObjective, Tuned
from kandinsky.training.config.run import FINETUNING, DataConfig, Stage, TrainConfig
from kandinsky.training.context import TrainContext
from kandinsky.training.events import result_of
from kandinsky.training.examples import Examples
from kandinsky.training.finetune.dreambooth import CLASS_FOLDER
from kandinsky.training.learner import Learner
from kandinsky.training.memory_meter import CudaAutocast, FakeTensors, MemoryMeter
from kandinsky.training.methods import METHODS
from kandinsky.training.task import StepContext, Task

CAPTION = "an image of a thing of some colour that stands on a table in front of a window"
"""The caption of each image: about as long as captions are."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """The memory of one step of a stage, in bytes.

    `networks` are the weights in memory by component, with how many numbers each has; those that learn are
    among them where networks learn as a whole, else `learned` are the new ones. `activations` is all else
    that is alive at the peak: what is kept for gradients, what operations need meanwhile, and the `images` of the
    step (all others stay in their file).
    """

    stage: Stage
    size: int
    device: str
    networks: Mapping[str, tuple[int, int]]
    numbers: int
    learned: int
    gradients: int
    optimiser: int
    means: int
    activations: int
    images: int

    @property
    def weights(self) -> int:
        """Bytes of all networks."""
        return sum(size for _, size in self.networks.values())

    @property
    def peak(self) -> int:
        """The most bytes of tensors at once."""
        return self.weights + self.learned + self.gradients + self.optimiser + self.means + self.activations


def plan(source: ConfigSource, *, overrides: Mapping[str, object] | None = None, **changes: object) -> Plan:
    """Counts the memory of a step of fine-tuning by running it on fake tensors.

    `source` and `overrides` are those of `run_config`, `changes` settings of the stage to plan with instead.
    No image and no weight is read, and the device need not be there ("auto" is that of this machine).
    Counted are tensors: what a device's own libraries take comes on top, and so do sample grids, which are
    drawn between steps. Raises ConfigError for a run from scratch, whose later stages begin with the results
    of earlier ones, and for distillation; CheckpointError as `load` does.
    """
    config = open_config(source, overrides)
    stage = config.stage[0]
    if stage.method not in FINETUNING or len(config.stage) > 1:
        raise ConfigError(
            f"Stage {stage.name!r} is not a fine-tuning of one stage, which is what can be planned.",
            "Start it and look at the first steps.",
        )
    if isinstance(stage.objective, DistillObjective):
        raise ConfigError(
            f"Stage {stage.name!r} begins with what its teacher draws, and nothing is drawn without weights.",
            'Plan method = "lora" (or "full") with the same batch: a step takes about as much.',
        )
    device = "cuda" if config.device.startswith("cuda") else choose_device(config.device).type
    stage = stage.model_copy(update={"compile": False, **changes})
    inside = CudaAutocast if device == "cuda" and stage.precision != "fp32" else nullcontext
    with tempfile.TemporaryDirectory() as folder, inside():
        return _count(config, stage, device, Path(folder), inside)


def _count(config: TrainConfig, stage: Stage, device: str, folder: Path, inside: Inside) -> Plan:
    models: list[Model] = []
    fake, meter = FakeTensors(), MemoryMeter()

    def opens(*given: Any, **named: Any) -> Pipeline:
        pipe = meta_model(*given, **named)
        for module in pipe.model.modules.values():
            fake.replace(module)
        models.append(pipe.model)
        return pipe

    ctx, task = _task(config, stage, folder, opens)
    model = models[0]
    size = ctx.data.size(stage, int(model.defaults["width"]))
    networks = {
        name: (_numbers(module.parameters()), meter.count(module.state_dict().values()))
        for name, module in model.modules.items()
    }
    for trainable in task.trainables:
        fake.replace(trainable.module)
        for part in trainable.compiled if stage.gradient_checkpointing else ():
            recompute(part, inside)
    learned = sum(meter.count(trainable.module.state_dict().values()) for trainable in task.trainables)
    with meter:
        learners = [Learner(trainable, stage, CPU) for trainable in task.trainables]
        for step in range(2):  # The first makes the optimiser's state, the second finds it there.
            batches = [_batch(task, model, stage, size) for _ in range(stage.accumulate)]
            images = sum(_bytes(_tensors_of(batch)) for batch in batches)
            meter.mark()
            for learner in learners:
                draws = torch.Generator()
                contexts = [StepContext(batch, step, CPU, draws.manual_seed(0), {}) for batch in batches]
                learner.update(contexts, [other for other in learners if other is not learner], 0.0, step)
    states = [state for learner in learners for state in learner.optimiser.state.values()]
    rows = {
        "learned": learned,
        "gradients": max(_bytes(learner.parameters.values()) for learner in learners),
        "optimiser": sum(_bytes(v for v in state.values() if isinstance(v, Tensor)) for state in states),
        "means": sum(_bytes(learner.ema.mean.values()) for learner in learners if learner.ema is not None),
    }
    rest = meter.peak - sum(rows.values()) - sum(held for _, held in networks.values())
    numbers = sum(_numbers(learner.parameters.values()) for learner in learners)
    return Plan(stage, size, device, networks, numbers, activations=max(0, rest), images=images, **rows)


def _task(
    config: TrainConfig, stage: Stage, folder: Path, opens: Callable[..., Pipeline]
) -> tuple[TrainContext, Task[Examples]]:
    """The task of a stage, made as for a run, on one grey image."""
    images = folder / "images"
    for place in (images, folder / stage.name / CLASS_FOLDER):
        place.mkdir(parents=True)
        Image.new("RGB", (64, 64), "grey").save(place / "00000.png")
    (images / "00000.txt").write_text(CAPTION, encoding="utf-8")
    data: dict[str, Any] = {"folder": images, "cache": folder / "cache"}
    if "size" in config.data.model_fields_set:
        data["size"] = config.data.size
    if config.data.hints is not None:
        data["hints"] = images
    objective: dict[str, object] = {}
    if isinstance(stage.objective, DreamBoothObjective) and stage.objective.preserves:
        objective["class_images"] = 1
    if isinstance(stage.objective, Tuned) and stage.objective.control and config.data.hints is None:
        # Hints in a column of the data are as large as edges.
        objective["control"] = stage.objective.control.model_copy(update={"hints": "edges"})
    # The grey image has no recipe that could recolour it.
    changes = {"variants": 0, "augmentation": "none"}
    changes |= {"objective": stage.objective.model_copy(update=objective)}
    changed = config.model_copy(update={"data": DataConfig(**data), "out": folder})
    ctx = TrainContext(changed, CPU, opens)
    making = METHODS[stage.method](ctx, stage.model_copy(update=changes))
    return ctx, cast(Task[Examples], result_of(making))


def _batch(task: Task[Examples], model: Model, stage: Stage, size: int) -> Examples:
    """A batch as a run has it: of images, or of their encodings where variants of those are kept."""
    batch = task.data.batch([0] * stage.batch, torch.Generator().manual_seed(0))
    if not stage.variants:
        return batch
    count, side = len(batch.captions), size // model.codec.downscale
    encodings = {"latents": torch.zeros(count, model.codec.channels, side, side)}
    if (prior := captions_of(model).prior) is not None:
        encodings["embeddings"] = torch.zeros(count, prior.network.config.embedding_dim)
    return replace(batch, pixels=None, encodings=encodings)


def _tensors_of(batch: Examples) -> list[Tensor]:
    """What a batch holds of its images."""
    held = [batch.pixels, batch.alpha, batch.hints, batch.repaint, *batch.encodings.values()]
    return [tensor for tensor in held if tensor is not None]


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)
