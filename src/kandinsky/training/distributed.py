"""Several processes that train one thing: each takes its share of a step's batches, gradients are averaged.

Launchers (`accelerate launch`, `torchrun`) say by environment variables who is who.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.run import TrainConfig


@dataclass(frozen=True)
class World:
    """This process among `size`; the first writes what there is to write."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their means over all processes, which bring the same shapes."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(self.size)

    def gathered(self, tensor: Tensor) -> Tensor:
        """The rows that all processes bring, in their order; they bring as many, of one shape."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def agreed(self, stop: bool, seconds: float, device: torch.device) -> tuple[bool, float]:
        """Whether any process wants to stop, and the time of the first; the same everywhere."""
        if self.size == 1:
            return stop, seconds
        both = torch.tensor([float(stop), seconds if self.first else 0.0], dtype=torch.float64, device=device)
        dist.all_reduce(both)
        return bool(both[0] > 0), float(both[1])

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Lets the first process finish before the others begin: they find what it has left in caches."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()


ALONE = World()


def launched() -> World:
    """What a launcher says, without joining; ConfigError for values that make no sense."""
    try:
        world = World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise ConfigError(f"RANK or WORLD_SIZE is not a number ({error}).", "Unset them.") from error
    if not 0 <= world.rank < world.size:
        raise ConfigError(f"RANK is {world.rank} of WORLD_SIZE {world.size}.", "Unset them.")
    return world


def as_launched(config: TrainConfig) -> TrainConfig:
    """The configuration with the precision and the accumulation that `accelerate launch` asks for.

    Raises ConfigError where its file says otherwise, and for a precision that is none of ours.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    count = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    asked: dict[str, object] = {}
    if precision not in ("no", "", "fp32"):
        if precision not in ("bf16", "fp16"):
            raise ConfigError(f"accelerate asks for precision {precision!r}.", "Launch with bf16, fp16 or no.")
        asked["precision"] = precision
    if count not in ("1", ""):
        if not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {count!r}.", "Give a number, or unset it.")
        asked["accumulate"] = int(count)
    for stage in config.stage:
        for name, value in asked.items():
            own = getattr(stage, name)
            if name in stage.model_fields_set and own != value:
                raise ConfigError(
                    f"accelerate asks for {name} {value!r}, and stage {stage.name!r} says {own!r}.",
                    "Say one thing: leave it out of the file, or launch with the same.",
                )
    return config.model_copy(update={"stage": tuple(one.model_copy(update=asked) for one in config.stage)})


def join(device: torch.device) -> tuple[World, torch.device]:
    """Joins the processes that a launcher has started; returns this one, and the device that it has.

    Each process on a machine takes a GPU of its own. Raises ConfigError where there are fewer.
    """
    world = launched()
    if world.size == 1:
        return ALONE, device
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", str(world.rank)))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"There are {torch.cuda.device_count()} GPUs, too few for process {local}.", "Start fewer processes."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return world, device


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
