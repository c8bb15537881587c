"""Noise that was recorded elsewhere."""

from collections.abc import Sequence

from torch import Tensor

from kandinsky.core.rng import Rng


class ReplayRng:
    """Hands out recorded draws (B, ...) in order.

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

    def select(self, rows: Sequence[int]) -> "Rng":
        return _ReplayRows(self, tuple(rows))

    def fork(self) -> "ReplayRng":
        return ReplayRng(self.draws)


class _ReplayRows:
    """Some rows of a record; every draw takes the whole record on by one."""

    def __init__(self, record: ReplayRng, rows: tuple[int, ...]) -> None:
        self.record = record
        self.rows = rows

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        count = len(self.record.draws[self.record.used]) if self.record.used < len(self.record.draws) else 0
        return self.record.normal((count, *shape[1:]))[list(self.rows)]

    def select(self, rows: Sequence[int]) -> "Rng":
        return _ReplayRows(self.record, tuple(self.rows[row] for row in rows))

    def fork(self) -> "Rng":
        return self.record.fork().select(self.rows)
