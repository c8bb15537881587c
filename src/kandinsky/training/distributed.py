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
        raise ConfigError(f"RANK or WORLD_SIZE is no number ({error}).", "Unset them.") from error
    if not 0 <= world.rank < world.size:
        raise ConfigError(f"RANK is {world.rank} of WORLD_SIZE {world.size}.", "Unset them.")
    return world


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
