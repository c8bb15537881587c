"""The smallest task that has everything: two trainables, dropout, batch norm, augmentation, accumulation."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.training.config.run import Stage
from kandinsky.training.image_grid import grid
from kandinsky.training.loop import train
from kandinsky.training.task import ImageGrid, Losses, StepContext, Task, Trainable, TrainState


class Points:
    """Seven points, jittered anew each time."""

    def __init__(self, count: int = 7) -> None:
        self.points = torch.randn(count, 4, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:
        return self.points[list(indices)] + 0.1 * torch.randn(len(indices), 4, generator=generator)


def toy_task(*, poison_at: int | None = None) -> Task:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
    critic = nn.Linear(4, 1)

    def reconstruct(step_context: StepContext) -> Losses:
        x: Tensor = step_context.batch
        out = network(x + 0.1 * step_context.normal(x))
        step_context.shared["out"] = out.detach()
        loss = (out - x).square().mean() - 0.01 * critic(out).mean()
        return Losses(loss * float("nan") if step_context.step == poison_at else loss, {"mse": loss.detach()})

    def judge(step_context: StepContext) -> Losses:
        return Losses((critic(step_context.shared["out"]) - critic(step_context.batch)).mean().square())

    def sheet(generator: torch.Generator) -> ImageGrid:
        return grid(network(torch.randn(3, 4, generator=generator))[:, :3, None, None].expand(-1, -1, 4, 4), 3)

    settings = toy_stage().optimiser
    trainables = (Trainable("network", network, reconstruct, settings),)
    trainables += (Trainable("critic", critic, judge, settings, begins=3, ema=False),)
    return Task(trainables, Points(), extra=nn.BatchNorm1d(2), grid=sheet, measure=lambda _: {"seen": 1.0})


def toy_stage(**changes: Any) -> Stage:
    values: dict[str, Any] = {
        "method": "movq",
        "batch": 3,
        "accumulate": 2,
        "max_steps": 20,
        "save_every": 4,
        "log_every": 1,
        "sample_every": 7,
        "optimiser": {"lr": 1e-2},
        "schedule": {"warmup": 3},
    }
    return Stage(**values | changes)


def run_toy(folder: Path, *, resume: bool = False, **changes: Any) -> list[Any]:
    poison = changes.pop("poison_at", None)
    torch.set_num_threads(1)
    run = TrainState(toy_task(poison_at=poison), toy_stage(**changes), folder, seed=3, resume=resume)
    return list(train(run))


def run_and_die(folder: Path, at: int) -> None:
    """Runs or resumes, and kills its own process at the `at`-th look at the disk or finished step."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count()
            return function(*args, **kwargs)

        return call

    # Every moment at which the disk changes is a place to die, before it and (at the next one) after it.
    for name in ("fsync", "rename", "replace", "rmdir", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    torch.set_num_threads(1)
    for _ in train(TrainState(toy_task(), toy_stage(), folder, seed=3, resume=True)):
        count()
