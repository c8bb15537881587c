"""Noise as the original code draws it, so that the same draws give the same images."""

from collections.abc import Callable, Sequence

from torch import Tensor

Draw = Callable[[tuple[int, ...]], Tensor]
"""Draws a standard normal tensor of a shape."""


class BatchNoise:
    """The source of one batch, which follows that of the batch `before` it.

    The original code draws a start and once a step, also in steps that add no noise, `total` times in all;
    draws that do not act are made up for when the next batch begins, or by `finish`.
    """

    def __init__(self, draw: Draw, total: int, before: "BatchNoise | None" = None) -> None:
        self.draw = draw
        self.total = total
        self.before = before
        self._drawn: list[tuple[int, ...]] = []

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        if self.before is not None:
            self.before.finish()
            self.before = None
        self._drawn.append(shape)
        return self.draw(shape)

    def finish(self) -> None:
        """Draws what a batch that has begun would still draw."""
        while 0 < len(self._drawn) < self.total:
            self.normal(self._drawn[-1])

    def select(self, rows: Sequence[int]) -> "BatchNoise":
        """See `Rng`: the rows asked for are drawn at once."""
        return self

    def fork(self) -> "BatchNoise":
        """See `Rng`; nothing is drawn here but the one trajectory."""
        return self
