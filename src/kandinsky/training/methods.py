"""The training methods by name: a network from scratch, or a way of fine-tuning a checkpoint."""

from collections.abc import Callable, Generator
from typing import Any

from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.events import Event
from kandinsky.training.finetune.distillation import distill_task
from kandinsky.training.finetune.dreambooth import dreambooth_task
from kandinsky.training.finetune.textual_inversion import inversion_task
from kandinsky.training.finetune.tuning import tune_task
from kandinsky.training.scratch.clip import clip_task
from kandinsky.training.scratch.diffusion import decoder_task, prior_task
from kandinsky.training.scratch.movq import movq_task
from kandinsky.training.task import Task

TaskBuilder = Callable[[TrainContext, Stage], Generator[Event, None, Task[Any]]]

METHODS: dict[str, TaskBuilder] = {
    "movq": movq_task,
    "clip": clip_task,
    "prior": prior_task,
    "decoder": decoder_task,
    "lora": tune_task,
    "full": tune_task,
    "dreambooth": dreambooth_task,
    "textual_inversion": inversion_task,
    "distill": distill_task,
}
"""What each `method` of a configuration trains."""
