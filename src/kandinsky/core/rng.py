"""Randomness: one CPU generator per picture, so that a picture depends on its seed and never on its batch."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Rng(Protocol):
    """A source of standard normal draws, one row per picture."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draws a standard normal tensor of `shape`; the first axis is the picture."""
        ...


class PerPictureRng:
    """Draws row i from generator i on the CPU, in float32 unless told otherwise.

    The draws equal what `torch.randn((1, *shape[1:]), generator=g)` gives for each generator in turn, which is
    also how the peer draws for a list of generators.
    """

    def __init__(self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32) -> None:
        self.generators = list(generators)
        self.dtype = dtype

    @classmethod
    def from_seeds(cls, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> "PerPictureRng":
        """One fresh generator per seed."""
        return cls([torch.Generator("cpu").manual_seed(seed) for seed in seeds], dtype)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        if shape[0] != len(self.generators):
            raise ValueError(f"asked for {shape[0]} rows of noise from {len(self.generators)} generators")
        rows = [torch.randn((1, *shape[1:]), generator=g, dtype=self.dtype) for g in self.generators]
        return torch.cat(rows)


class ReplayRng:
    """Hands out recorded draws in order, each reshaped to nothing else than what was asked.

    Raises ValueError when a draw of another shape is asked for, or when the record is used up.
    """

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)
        self.used = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        if self.used >= len(self.draws):
            raise ValueError(f"all {len(self.draws)} recorded draws are used up")
        draw = self.draws[self.used]
        if tuple(draw.shape) != tuple(shape):
            raise ValueError(f"draw {self.used} has shape {tuple(draw.shape)}, asked for {tuple(shape)}")
        self.used += 1
        return draw
