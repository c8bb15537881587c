"""Randomness: one CPU generator per image, so that an image depends on its seed and never on its batch."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """What the loop draws from: standard normal values, one row per image."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draws a standard normal tensor of `shape`; the first axis is the image."""
        ...


class Rng(Noise, Protocol):
    """The draws of a whole request, which some of its rows may need alone or once more."""

    def select(self, rows: Sequence[int]) -> "Rng":
        """The same source for some of its images only; what it draws is gone for this source too."""
        ...

    def fork(self) -> "Rng":
        """A source that repeats this one from its very beginning, without touching it."""
        ...


class PerImageRng:
    """Draws row i from generator i on the CPU, in `dtype`.

    The draws equal what `torch.randn((1, *shape[1:]), generator=g)` gives for each generator in turn, which
    is also how diffusers draws for a list of generators.
    """

    def __init__(self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32) -> None:
        self.generators = list(generators)
        self.dtype = dtype
        self._beginnings = [g.get_state() for g in self.generators]

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> "PerImageRng":
        """One fresh generator per seed."""
        return cls([torch.Generator("cpu").manual_seed(seed) for seed in seeds], dtype)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        if shape[0] != len(self.generators):
            raise ValueError(f"asked for {shape[0]} rows of noise from {len(self.generators)} generators")
        rows = [torch.randn((1, *shape[1:]), generator=g, dtype=self.dtype) for g in self.generators]
        return torch.cat(rows)

    def select(self, rows: Sequence[int]) -> "PerImageRng":
        chosen = PerImageRng([self.generators[row] for row in rows], self.dtype)
        chosen._beginnings = [self._beginnings[row] for row in rows]
        return chosen

    def fork(self) -> "PerImageRng":
        generators = [torch.Generator("cpu") for _ in self.generators]
        for generator, state in zip(generators, self._beginnings, strict=True):
            generator.set_state(state)
        return PerImageRng(generators, self.dtype)
