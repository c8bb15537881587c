"""The scales and shifts by which a U-Net's residual blocks are told the time, for all steps of a request."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_BYTES = 2**28
"""A table is as large as this at most; published networks need about 0.3 MB for a step and row in float32."""


class FilmTable:
    """What `films` gives at each of `times`, computed at once.

    `films` maps times (T,) on the device of `pooled` (B, D) to the blocks' tables, each (T, B, 2 C), and
    `width` is the sum of those 2 C. Times that a table of `MOST_BYTES` has no room for are as those that were
    not announced: they are computed when they are asked for.
    """

    def __init__(
        self,
        films: Callable[[Tensor, Tensor], list[Tensor]],
        times: Sequence[float],
        pooled: Tensor,
        width: int,
    ) -> None:
        self._compute, self._pooled = films, pooled
        room = MOST_BYTES // (len(pooled) * width * pooled.element_size())
        known = list(dict.fromkeys(float(t) for t in times))[: max(room, 1)]
        self._places = {t: place for place, t in enumerate(known)}
        self._films = self._at(known)

    @property
    def times(self) -> frozenset[float]:
        """The times that the table holds: at these none of the layers is needed that make it."""
        return frozenset(self._places)

    def at(self, t: float) -> list[Tensor]:
        """The blocks' scales and shifts at time t, each (B, 2 C)."""
        place = self._places.get(float(t))
        if place is None:
            return [film[0] for film in self._at([float(t)])]
        return [film[place] for film in self._films]

    def _at(self, times: list[float]) -> list[Tensor]:
        return self._compute(torch.tensor(times, device=self._pooled.device), self._pooled)
