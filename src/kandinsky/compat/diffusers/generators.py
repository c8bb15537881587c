"""Noise from the generators that callers pass: none, one for the whole batch, or one per image."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.rng import NumpyRng, Rng

Generator: TypeAlias = torch.Generator | np.random.Generator
Generators: TypeAlias = "Generator | Sequence[Generator] | None"


class SharedRng:
    """Draws the rows of all images at once from one generator, or from torch's own when it is None.

    Draws are made in `dtype` on the generator's device (`device` for torch's own), like diffusers'.
    """

    def __init__(self, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device) -> None:
        self.generator = generator
        self.dtype = dtype
        self.device = device if generator is None else generator.device
        self._beginning = None if generator is None else generator.get_state()

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        return torch.randn(shape, generator=self.generator, dtype=self.dtype, device=self.device)

    def select(self, rows: Sequence[int]) -> "SharedRng":
        """See `Rng`: the rows asked for are drawn at once."""
        return self

    def fork(self) -> "SharedRng":
        """See `Rng`; torch's own generator cannot be repeated, so a fork of it goes on drawing from it."""
        if self.generator is None or self._beginning is None:
            return self
        again = torch.Generator(self.device)
        again.set_state(self._beginning)
        return SharedRng(again, self.dtype, self.device)


class ListedRng:
    """Draws row i from generator i, in `dtype` on the generator's own device."""

    def __init__(self, sources: Sequence[Rng]) -> None:
        self.sources = list(sources)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        if shape[0] != len(self.sources):
            raise RequestError(
                f"{len(self.sources)} generators were given for {shape[0]} images.",
                "Give one generator per image, or one for all.",
            )
        return torch.cat([source.normal((1, *shape[1:])) for source in self.sources])

    def select(self, rows: Sequence[int]) -> "ListedRng":
        """See `Rng`."""
        return ListedRng([self.sources[row] for row in rows])

    def fork(self) -> "ListedRng":
        """See `Rng`."""
        return ListedRng([source.fork() for source in self.sources])


class GivenFirst:
    """Hands out `first` for the first draw, whatever its shape would have been, and draws the rest from
    `rng`.

    Raises RequestError when `first` has another shape than what was to be drawn.
    """

    def __init__(self, first: Tensor, rng: Rng) -> None:
        self.first: Tensor | None = first
        self.rng = rng

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        if self.first is None:
            return self.rng.normal(shape)
        given, self.first = self.first, None
        if tuple(given.shape) != tuple(shape):
            raise RequestError(
                f"latents of shape {tuple(given.shape)} were given, {tuple(shape)} is needed.",
                "The shape follows from the number of images and their size.",
            )
        return given

    def select(self, rows: Sequence[int]) -> "GivenFirst":
        """See `Rng`."""
        return self

    def fork(self) -> Rng:
        """See `Rng`."""
        return self.rng.fork()


def rng_of(
    generator: Generators,
    count: int,
    dtype: torch.dtype,
    device: torch.device,
    latents: Tensor | None = None,
    *,
    exact: bool = False,
) -> Rng:
    """The source of noise for `count` images; given `latents` replace what is drawn first.

    A list of one counts as one generator; of a longer one than there are images the first ones count, as in
    diffusers, unless it is to be `exact`. Raises RequestError for other lists, and for anything else.
    """
    listed = generator if isinstance(generator, Sequence) else [generator]
    if wrong := [one for one in listed if one is not None and not isinstance(one, Generator)]:
        raise RequestError(
            f"A {type(wrong[0]).__name__} is no generator.", "Give torch.Generator().manual_seed(7), or several."
        )
    if isinstance(generator, Generator) or generator is None:
        rng = _of_one(generator, dtype, device)
    elif len(generator) == 1:
        rng = _of_one(generator[0], dtype, device)
    elif len(generator) == count or (len(generator) > count and not exact):
        rng = ListedRng([_of_one(one, dtype, device) for one in generator[:count]])
    else:
        raise RequestError(
            f"{len(generator)} generators were given for {count} images.",
            "Give one generator per image, or one for all.",
        )
    return rng if latents is None else GivenFirst(latents, rng)


def _of_one(generator: Generator | None, dtype: torch.dtype, device: torch.device) -> Rng:
    """Noise from one generator: NumPy's draws as code for MindSpore does, torch's as diffusers does."""
    if isinstance(generator, np.random.Generator):
        return NumpyRng(generator, dtype)
    return SharedRng(generator, dtype, device)
