"""Values of a network that depend on time only (scales and shifts, time tokens), for all steps of a request."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_BYTES = 2**28
"""A table is as large as this at most; published networks need about 0.3 MB for a step and row in float32."""


class FilmTable:
    """The tables of `films` at each of `times`, computed at once.

    `films` maps times (T,) and `pooled` (B, D) to tables, each (T, B, C), and `width` is the sum of their C. Times
    beyond `MOST_BYTES`, and others than `times`, are computed when they are needed.
    """

    def __init__(
        self, films: Callable[[Tensor, Tensor], list[Tensor]], times: Sequence[float], pooled: Tensor, width: int
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
        """The times in the table, at which the layers that make it are not needed."""
        return frozenset(self._places)

    def row(self, t: float) -> Tensor:
        """All tables at time t side by side, (B, width)."""
        place = self._places.get(float(t))
        if place is None:
            return torch.cat(self._compute_at([float(t)]), dim=-1)[0]
        return self._rows[place]

    def split(self, row: Tensor) -> Sequence[Tensor]:
        """The tables' parts (B, C) of a row, as views."""
        return torch.split(row, self._widths, dim=-1)

    def _compute_at(self, times: list[float]) -> list[Tensor]:
        return self._compute(torch.tensor(times, device=self._pooled.device), self._pooled)
