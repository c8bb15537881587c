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
        found = self._compute_at(known)
        self._widths = [film.shape[-1] for film in found]
        self._rows = torch.cat(found, dim=-1)

    @property
    def times(self) -> frozenset[float]:
        """The times that the table holds: at these none of the layers is needed that make it."""
        return frozenset(self._places)

    def at(self, t: float) -> list[Tensor]:
        """The blocks' scales and shifts at time t, each (B, 2 C)."""
        return self.split(self.row(t))

    def row(self, t: float) -> Tensor:
        """All of them side by side, (B, width)."""
        place = self._places.get(float(t))
        if place is None:
            return torch.cat(self._compute_at([float(t)]), dim=-1)[0]
        return self._rows[place]

    def split(self, row: Tensor) -> list[Tensor]:
        """What `row` gave, a view for each block."""
        return list(torch.split(row, self._widths, dim=-1))

    def _compute_at(self, times: list[float]) -> list[Tensor]:
        return self._compute(torch.tensor(times, device=self._pooled.device), self._pooled)
