"""Noise from the generators that callers pass: none, one for the whole batch, or one per image."""

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import RequestError

Generator: TypeAlias = torch.Generator | np.random.Generator
Generators: TypeAlias = "Generator | Sequence[Generator] | None"


class Draws:
    """Draws from one generator (None: torch's own) the rows of all images at once, from several row i from the i-th.

    Draws are made in `dtype` on a generator's own device (`device` for torch's own), as by diffusers; NumPy's as
    doubles that are cast, as by code for MindSpore. `first` replaces the first draw.
    """

    def __init__(
        self, generators: Sequence[Any], dtype: torch.dtype, device: torch.device, first: Tensor | None = None
    ) -> None:
        self.generators, self.dtype, self.device, self.first = list(generators), dtype, device, first
        self._beginnings = [_copied(one) for one in self.generators]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Noise`; RequestError for another number of images than of generators, and where `first` is of another
        shape."""
        if self.first is not None:
            given, self.first = self.first, None
            if tuple(given.shape) != tuple(shape):
                raise RequestError(
                    f"latents of shape {tuple(given.shape)} were given, {tuple(shape)} is needed.",
                    "The shape follows from the number of images and their size.",
                )
            return given
        if len(self.generators) == 1:
            return self._drawn(self.generators[0], shape)
        if shape[0] != len(self.generators):
            raise _wrong_number(len(self.generators), shape[0])
        return torch.cat([self._drawn(one, (1, *shape[1:])) for one in self.generators])

    def _drawn(self, generator: Generator | None, shape: tuple[int, ...]) -> Tensor:
        if isinstance(generator, np.random.Generator):
            return torch.from_numpy(generator.standard_normal(shape)).to(self.dtype)
        place = self.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, dtype=self.dtype, device=place)

    def select(self, rows: Sequence[int]) -> "Draws":
        """See `Rng`: of one generator the rows asked for are drawn at once."""
        if len(self.generators) == 1 or self.first is not None:
            return self
        return Draws([self.generators[row] for row in rows], self.dtype, self.device)

    def fork(self) -> "Draws":
        """See `Rng`; torch's own generator cannot be repeated, so a fork of it goes on drawing from it."""
        return Draws([_copied(one) for one in self._beginnings], self.dtype, self.device)


def _copied(generator: Generator | None) -> Generator | None:
    if not isinstance(generator, torch.Generator):
        return copy.deepcopy(generator)
    again = torch.Generator(generator.device)
    again.set_state(generator.get_state())
    return again


def _wrong_number(generators: int, images: int) -> RequestError:
    return RequestError(
        f"{generators} generators were given for {images} images.", "Give one generator per image, or one for all."
    )


def rng_of(
    generator: Generators,
    count: int,
    dtype: torch.dtype,
    device: torch.device,
    latents: Tensor | None = None,
    *,
    exact: bool = False,
) -> Draws:
    """The source of noise for `count` images; given `latents` replace what is drawn first.

    A list of one counts as one generator; of a longer one than there are images the first ones count, as in
    diffusers, unless it is to be `exact`. Raises RequestError for other lists, and for anything else.
    """
    listed = list(generator) if isinstance(generator, Sequence) else [generator]
    if wrong := [one for one in listed if one is not None and not isinstance(one, Generator)]:
        raise RequestError(
            f"A {type(wrong[0]).__name__} is no generator.", "Give torch.Generator().manual_seed(7), or several."
        )
    if not (len(listed) in (1, count) or (len(listed) > count and not exact)):
        raise _wrong_number(len(listed), count)
    return Draws(listed if len(listed) == 1 else listed[:count], dtype, device, latents)
