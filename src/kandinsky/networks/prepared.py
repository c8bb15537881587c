"""A denoising network closed over one request, so that a step computes only what changes between steps."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from kandinsky.networks.deep_cache import DeepFeatures, TwoDepths
from kandinsky.networks.film_table import FilmTable

F = TypeVar("F")
F_contra = TypeVar("F_contra", contravariant=True)
Run = Callable[[Tensor, Tensor], Tensor]
"""A step's input, which is (B, ...), and the row of its time to the network's output."""


class StepNetwork(Protocol[F_contra]):
    """A denoising nn.Module, whose `denoise` reads what a request fixes from `fixed`."""

    def denoise(self, x: Tensor, fixed: F_contra) -> Tensor:
        """The input of a step to its output."""
        ...

    def request_modules(self) -> list[nn.Module]:
        """The modules that run once a request: no step at an announced time needs their weights."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True, eq=False)
class PreparedNetwork(Generic[F]):
    """A network closed over the conditions of one request.

    `fixed_of` makes the second argument of `network.denoise` from a row of `table`. `extra` (B, c, h, w) are channels
    behind the latents'; `deep` reuses deep features. The caller chooses how steps run, see
    `kandinsky.engine.acceleration`: memory format, a copy of the network, and `run` in place of `call`.
    """

    network: StepNetwork[F]
    table: FilmTable
    fixed_of: Callable[[Tensor], F]
    extra: Tensor | None = None
    deep: DeepFeatures | None = None
    memory_format: torch.memory_format | None = None
    run: Run | None = None

    def step(self, x: Tensor, t: float) -> Tensor:
        """The network's output for x (B, ...) at time t, which need not have been announced."""
        if self.deep is not None:
            inputs, fixed = self.inputs(x, t)
            return self.deep.step(cast("TwoDepths[F]", self.network), inputs, fixed, t)
        return (self.run or self.call)(self._widened(x), self.table.row(t))

    def call(self, x: Tensor, row: Tensor) -> Tensor:
        """A step: its input with all channels, and the row of its time."""
        return self.network.denoise(x, self.fixed_of(row))

    def inputs(self, x: Tensor, t: float) -> tuple[Tensor, F]:
        """The arguments of `network.denoise` in a step."""
        return self._widened(x), self.fixed_of(self.table.row(t))

    def _widened(self, x: Tensor) -> Tensor:
        x = x if self.extra is None else torch.cat([x, self.extra], dim=1)
        if self.memory_format is None or x.ndim != 4:
            return x
        return x.contiguous(memory_format=self.memory_format)


@dataclass(frozen=True)
class Fixed:
    """Inputs of a U-Net's blocks at one time, in their order.

    `films` are scales and shifts, each (B, 2 C); `contexts` the context's keys and values, each (2, B, heads, L, d);
    `visible` (B, 1, 1, L) masks the L tokens, None: all visible.
    """

    films: Sequence[Tensor]
    contexts: Sequence[Tensor]
    visible: Tensor | None = None


class UNet(StepNetwork[Fixed], TwoDepths[Fixed], Protocol):
    """What the U-Nets have in common; `films` are the blocks' scales and shifts, each (T, B, 2 C), at times
    (T,) for pooled (B, D), and `film_width` the sum of the 2 C."""

    film_width: int

    @property
    def config(self) -> object: ...

    def prepare(
        self, condition: Any, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Fixed]: ...

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]: ...


def prepare_unet(
    network: UNet,
    pooled: Tensor,
    contexts: Sequence[Tensor],
    times: Sequence[float],
    extra: Sequence[Tensor] = (),
    visible: Tensor | None = None,
    deep: DeepFeatures | None = None,
) -> PreparedNetwork[Fixed]:
    """A U-Net closed over `pooled` (B, D), which is added to the time embedding, and its contexts. `extra` (b, c, h,
    w), channels behind the latents', may have fewer rows: both halves of a guided batch share them."""
    table = FilmTable(network.films, times, pooled, network.film_width)
    rows = [channels.repeat(len(pooled) // len(channels), 1, 1, 1) for channels in extra]
    fixed_of = partial(_fixed, table, contexts, visible)
    return PreparedNetwork(network, table, fixed_of, torch.cat(rows, dim=1) if rows else None, deep)


def _fixed(table: FilmTable, contexts: Sequence[Tensor], visible: Tensor | None, row: Tensor) -> Fixed:
    return Fixed(table.split(row), contexts, visible)


def assign_indices(blocks: Collection[nn.Module]) -> None:
    """Numbers the blocks: each one's `index` in the tables of `Fixed`."""
    for index, block in enumerate(blocks):
        block.index = index  # type: ignore[assignment]
