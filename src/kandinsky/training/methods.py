"""What can be trained: from scratch one file each, and ways of fine-tuning a checkpoint; one row each."""

from collections.abc import Callable, Generator

from kandinsky.training.config import Stage
from kandinsky.training.events import Event
from kandinsky.training.finetune.distillation import distill_task
from kandinsky.training.finetune.dreambooth import dreambooth_task
from kandinsky.training.finetune.losses import full_task, lora_task
from kandinsky.training.finetune.textual_inversion import inversion_task
from kandinsky.training.scratch.clip import clip_task
from kandinsky.training.scratch.decoder import decoder_task
from kandinsky.training.scratch.movq import movq_task
from kandinsky.training.scratch.prior import prior_task
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Task

Builder = Callable[[Workshop, Stage], Generator[Event, None, Task]]

METHODS: dict[str, Builder] = {
    "movq": movq_task,
    "clip": clip_task,
    "prior": prior_task,
    "decoder": decoder_task,
    "lora": lora_task,
    "full": full_task,
    "dreambooth": dreambooth_task,
    "textual_inversion": inversion_task,
    "distill": distill_task,
}
"""What each `method` of a configuration trains."""
