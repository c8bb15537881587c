"""Noise for ancestral samplers that is the same however many steps are taken."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.diffusion.process import Process


class BrownianNoise:
    """Draws the start of P images, then the noise of each step of one trajectory, all of one Brownian path.

    With the noise-to-signal ratio sigma, ancestral steps add noise of variance sigma_next^2 (1 - sigma_next^2
    / sigma^2) to x / sqrt(alpha_bar), and shrink what was added before by sigma_next^2 / sigma^2: together
    that is a Brownian motion whose clock is 1 / sigma^2. A step's draw is its increment over the step, made
    standard normal, so that a thousand steps and ten see the same path.
    """

    def __init__(self, start: Tensor, process: Process, seed: int = 0) -> None:
        self.start, self.process = start, process
        generator = torch.Generator().manual_seed(seed)
        clock = torch.tensor([self._clock(t) for t in range(process.T)], dtype=torch.float64)
        spans = (clock[:-1] - clock[1:]).flip(0).sqrt().float()
        path = torch.randn(process.T - 1, *start.shape, generator=generator)
        path.mul_(spans.reshape(-1, *[1] * start.ndim))
        self._path = torch.cat([torch.zeros(1, *start.shape), path.cumsum(0)])
        self._end = torch.randn(start.shape, generator=generator)

    def _clock(self, t: int) -> float:
        return self.process.sigma_at(t) ** -2

    def along(self, times: Sequence[int]) -> "BrownianDraws":
        """The draws of a trajectory at these falling times."""
        return BrownianDraws(self, list(times))

    def between(self, t: int, t_next: int) -> Tensor:
        """The draw of a step; towards a clean end, where none is left in the image, one of its own."""
        if t_next < 0:
            return self._end
        last = self.process.T - 1
        span = (self._clock(t_next) - self._clock(t)) ** 0.5
        return (self._path[last - t_next] - self._path[last - t]) / span


class BrownianDraws:
    """An `Rng`: the start, then one draw for each step."""

    def __init__(self, noise: BrownianNoise, times: list[int]) -> None:
        self.noise, self.times, self.drawn = noise, times, 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """See `Rng`."""
        self.drawn += 1
        if self.drawn == 1:
            return self.noise.start
        ends = [*self.times, -1]
        return self.noise.between(ends[self.drawn - 2], ends[self.drawn - 1])

    def select(self, rows: Sequence[int]) -> "BrownianDraws":
        """See `Rng`; a trajectory has all its images."""
        raise DataError("Rows of a Brownian path are not drawn alone.", "Run all images together.")

    def fork(self) -> "BrownianDraws":
        """See `Rng`."""
        return BrownianDraws(self.noise, self.times)
