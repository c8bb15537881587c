"""Noise as the original code draws it, so that the same draws give the same images."""

from collections.abc import Callable, Sequence

from torch import Tensor

Draw = Callable[[tuple[int, ...]], Tensor]
"""Draws a standard normal tensor of a shape."""


class OriginalNoise:
    """A source for one call of a method: images are the first halves of batches of twice their number.

    The other halves belong to rows that the original code samples and never uses. It also draws after the
    last step of the prior, where nothing is added; such draws are made up for when the decoder, or a
    second trajectory of the prior, begins. `prior_steps` is the length of a trajectory, and `plain` how
    many of the decoder's first draws are not doubled: those for encoding and for noising an input image.
    """

    def __init__(self, draw: Draw, prior_steps: int = 0, plain: int = 0) -> None:
        self.draw = draw
        self.prior_steps = prior_steps
        self.plain = plain
        self._prior: list[tuple[int, ...]] = []

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        doubled = (2 * shape[0], *shape[1:])
        if len(shape) == 2:
            self._prior.append(doubled)
        else:
            self.finish()
            if self.plain > 0:
                self.plain -= 1
                return self.draw(shape)
        return self.draw(doubled)[: shape[0]]

    def finish(self) -> None:
        """Draws what a trajectory of the prior that has begun would still draw."""
        while 0 < len(self._prior) < 1 + self.prior_steps:
            self._prior.append(self._prior[-1])
            self.draw(self._prior[-1])
        self._prior.clear()

    def select(self, rows: Sequence[int]) -> "OriginalNoise":
        """See `Rng`: the rows asked for are drawn at once."""
        return self

    def fork(self) -> "OriginalNoise":
        """See `Rng`; what negative prompts draw follows what prompts draw here."""
        self.finish()
        return self
