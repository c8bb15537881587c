"""A training task as a value: what learns, what it minimises, and on which data; the loop knows nothing else.

Full training, an adapter, one row of an embedding or two networks against each other differ only in the
`Trainable`s: the module whose parameters learn, and a loss of a batch that closes over the other networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from kandinsky.training.config.run import OptimiserConfig, Stage
from kandinsky.training.data.samplers import Order
from kandinsky.training.distributed import ALONE, World
from kandinsky.training.image_grid import ImageGrid

A = TypeVar("A")
B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True)
class Losses:
    """`total` is minimised; `parts` are shown. All scalars."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepContext(Generic[B]):
    """One batch for one trainable.

    `generator` lives on `device` and is the only source of randomness a loss may use. `shared` passes
    tensors to the trainables that have the same batch next (a reconstruction for its critic).
    """

    batch: B
    step: int
    device: torch.device
    generator: torch.Generator
    shared: dict[str, Tensor]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal draws of the shape and type of `like`."""
        return torch.randn(like.shape, generator=self.generator, device=self.device, dtype=like.dtype)

    def uniform(self, count: int) -> Tensor:
        """Draws (count,) uniform in [0, 1)."""
        return torch.rand(count, generator=self.generator, device=self.device)


@dataclass(frozen=True)
class Trainable(Generic[B]):
    """One module that learns (those of its parameters that require gradients), and what it minimises.

    `begins` is its first step; `ema` whether an average of it is kept; `compiled` are the modules whose
    forward is worth compiling when the settings ask for it. `finish` changes a float32 copy of the module, in
    evaluation mode with the average as weights, when the stage ends; later stages then load that copy,
    while what a resumed run continues from stays as it was. `networks` are those parts of the module that
    may be spread over processes: they learn as a whole, and losses call them as a whole.
    """

    name: str
    module: nn.Module
    loss: Callable[[StepContext[B]], Losses]
    optimiser: OptimiserConfig
    begins: int = 0
    ema: bool = True
    compiled: tuple[nn.Module, ...] = ()
    finish: Callable[[nn.Module], None] | None = None
    networks: tuple[nn.Module, ...] = ()


class Source(Protocol[B_co]):
    """Examples by number; a batch is the same for the same indices and an equal generator."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> B_co:
        """The examples of these indices, augmented by draws of `generator` (on the CPU)."""


@dataclass(frozen=True)
class MappedSource(Generic[A, B]):
    """The batches of a source, each changed by `change(batch, generator)`."""

    source: Source[A]
    change: Callable[[A, torch.Generator], B]

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> B:
        return self.change(self.source.batch(indices, generator), generator)


@dataclass(frozen=True)
class Task(Generic[B]):
    """Everything that is particular to one kind of training.

    `extra` holds tensors that must survive a resume but are not trained (histories of samplers); `sync` is
    called at the end of each step, by all processes, and makes them the same everywhere. `order`
    makes the order of examples from the batch size and the seed; without it each is seen once an epoch.
    `grid` draws an image (H, W, 3) of what the trainables can do, `measure` gives numbers; both are called
    with the averages in place, without gradients, and with the same generator each time.
    """

    trainables: tuple[Trainable[B], ...]
    data: Source[B]
    extra: nn.Module | None = None
    sync: Callable[[World], None] | None = None
    order: Callable[[int, int], Order] | None = None
    grid: Callable[[torch.Generator], ImageGrid] | None = None
    measure: Callable[[torch.Generator], dict[str, float]] | None = None


@dataclass(frozen=True)
class TrainState:
    """A task, its settings, and where it happens; `folder` receives checkpoints, losses and samples.

    `world` are the processes that share it.
    """

    task: Task[Any]
    stage: Stage
    folder: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume: bool = False
    world: World = ALONE
