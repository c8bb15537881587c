"""What a run will take, before it is paid for: its memory, counted on networks without weights."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import Pipeline
from kandinsky.engine.text_encoders import listeners
from kandinsky.generations.model import Model
from kandinsky.training.api import choose_device
from kandinsky.training.config import (
    FINETUNING,
    DataConfig,
    DistillObjective,
    Stage,
    TrainConfig,
    read_config,
)
from kandinsky.training.learner import Learner
from kandinsky.training.ledger import CudaAutocast, Hollow, Ledger
from kandinsky.training.memory import Inside, recompute
from kandinsky.training.stages import METHODS
from kandinsky.training.stages.dreambooth import CLASS_FOLDER
from kandinsky.training.stages.examples import Examples
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Task, Turn
from kandinsky.training.tuning_config import DreamBoothObjective

CAPTION = "a picture of a thing of some colour that stands on a table in front of a window"
"""What each picture is said to show: about as long as captions are."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """The memory of one step of a stage, in bytes.

    `networks` are the weights in memory by component, with how many numbers each has; those that learn are
    among them where networks learn as a whole, else `learned` are the new ones beside them. `activations` is
    all that is alive at the peak beside the rows before: what is kept for gradients, and what operations need
    meanwhile.
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

    @property
    def weights(self) -> int:
        """Bytes of all networks."""
        return sum(size for _, size in self.networks.values())

    @property
    def peak(self) -> int:
        """The most bytes of tensors at once."""
        return self.weights + self.learned + self.gradients + self.optimiser + self.means + self.activations


def plan(
    source: Path | str | Mapping[str, Any] | TrainConfig,
    *,
    overrides: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    """Counts the memory of a step of fine-tuning by running it on tensors without numbers.

    `source` and `overrides` are those of `run_config`, `changes` settings of the stage to plan with instead.
    No picture and no weight is read, and the device need not be there ("auto" is that of this machine).
    Counted are tensors: what a device's own libraries take comes on top, and so do sample sheets, which are
    drawn between steps. Raises ConfigError for a run from scratch, whose later stages begin with the results
    of earlier ones, and for distillation; CheckpointError as `load` does.
    """
    config = source if isinstance(source, TrainConfig) else read_config(source, overrides)
    stage = config.stage[0]
    if stage.method not in FINETUNING or len(config.stage) > 1:
        raise ConfigError(
            f"Stage {stage.name!r} is no fine-tuning of one stage, which is what can be planned.",
            "Start it and look at the first steps.",
        )
    if isinstance(stage.objective, DistillObjective):
        raise ConfigError(
            f"Stage {stage.name!r} begins with what its teacher draws, and nothing is drawn without weights.",
            'Plan method = "lora" (or "full") with the same batch: a step takes about as much.',
        )
    device = "cuda" if config.device.startswith("cuda") else choose_device(config.device).type
    stage = stage.model_copy(update={"compile": False, **changes})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        wide = device == "cuda" and stage.precision != "fp32"
        if wide:
            stack.enter_context(CudaAutocast())
        return _counted(config, stage, device, Path(folder), CudaAutocast if wide else nullcontext)


def _counted(config: TrainConfig, stage: Stage, device: str, folder: Path, inside: Inside) -> Plan:
    pipes: list[Pipeline] = []
    hollow, ledger = Hollow(), Ledger()

    def opens(*given: Any, **named: Any) -> Pipeline:
        pipe = meta_model(*given, **named)
        for module in pipe.model.modules.values():
            hollow.make(module)
        pipes.append(pipe)
        return pipe

    shop, task = _task(config, stage, folder, opens)
    model, size = pipes[0].model, shop.size(stage)
    networks = {
        name: (
            sum(value.numel() for value in module.parameters()),
            ledger.count(module.state_dict().values()),
        )
        for name, module in model.modules.items()
    }
    for player in task.players:
        hollow.make(player.module)
        for part in player.compiled if stage.gradient_checkpointing else ():
            recompute(part, inside)
    learned = sum(ledger.count(player.module.state_dict().values()) for player in task.players)
    with ledger:
        learners = [Learner(player, stage, CPU) for player in task.players]
        for step in range(2):  # The first makes the optimiser's state, the second finds it there.
            batches = [_batch(task, model, stage, size) for _ in range(stage.accumulate)]
            ledger.mark()
            for learner in learners:
                turns = [Turn(batch, step, CPU, torch.Generator().manual_seed(0), {}) for batch in batches]
                learner.update(turns, [other for other in learners if other is not learner], 0.0, step)
    rows = {
        "learned": learned,
        "gradients": max(_bytes(learner.parameters.values()) for learner in learners),
        "optimiser": sum(_bytes(_state(learner)) for learner in learners),
        "means": sum(_bytes(learner.ema.mean.values()) for learner in learners if learner.ema is not None),
    }
    rest = ledger.peak - sum(rows.values()) - sum(held for _, held in networks.values())
    numbers = sum(value.numel() for learner in learners for value in learner.parameters.values())
    return Plan(stage, size, device, networks, numbers, activations=max(0, rest), **rows)


def _task(
    config: TrainConfig, stage: Stage, folder: Path, opens: Callable[..., Pipeline]
) -> tuple[Workshop, Task]:
    """The task of a stage, made as for a run, on one grey picture."""
    pictures = folder / "pictures"
    classes = folder / stage.name / CLASS_FOLDER
    for place in (pictures, classes):
        place.mkdir(parents=True)
        Image.new("RGB", (64, 64), "grey").save(place / "00000.png")
    (pictures / "00000.txt").write_text(CAPTION, encoding="utf-8")
    given: dict[str, Any] = {"folder": pictures, "cache": folder / "cache"}
    if "size" in config.data.model_fields_set:
        given["size"] = config.data.size
    if config.data.hints is not None:
        given["hints"] = pictures
    objective: dict[str, Any] = {}
    if isinstance(stage.objective, DreamBoothObjective) and stage.objective.preserves:
        objective["class_pictures"] = 1
    control = getattr(stage.objective, "control", None)
    if control is not None and config.data.hints is None:
        # Hints in a column of the data are as large as edges.
        objective["control"] = control.model_copy(update={"hints": "edges"})
    changes = {"variants": 0, "objective": stage.objective.model_copy(update=objective)}
    data = DataConfig(**given)
    shop = Workshop(config.model_copy(update={"data": data, "out": folder}), CPU, opens)
    making = METHODS[stage.method](shop, stage.model_copy(update=changes))
    while True:
        try:
            next(making)
        except StopIteration as done:
            return shop, cast(Task, done.value)


def _batch(task: Task, model: Model, stage: Stage, size: int) -> Any:
    """A batch as a run has it: of pictures, or of their encodings where variants of those are kept."""
    batch: Examples = task.data.batch([0] * stage.batch, torch.Generator().manual_seed(0))
    if not stage.variants:
        return batch
    count, side = len(batch.captions), size // model.codec.downscale
    encodings = {"latents": torch.zeros(count, model.codec.channels, side, side)}
    if (prior := listeners(model).prior) is not None:
        encodings["embeddings"] = torch.zeros(count, prior.network.config.embedding_dim)
    return replace(batch, pixels=None, encodings=encodings)


def _state(learner: Learner) -> Iterator[Tensor]:
    for state in learner.optimiser.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)
