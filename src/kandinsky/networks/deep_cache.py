"""Deep features of a U-Net kept over several steps, while its first resolution is computed at each.

Source: Ma et al. 2023 (DeepCache), arXiv 2312.00858, here with the cut below the first resolution.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from torch import Tensor

from kandinsky.core.errors import ConfigError


class TwoDepths(Protocol):
    """A U-Net whose first resolution can run without the others; `fixed` is what a request fixes."""

    def begin(self, x: Tensor, fixed: Any) -> tuple[Tensor, list[Tensor]]:
        """The way down at the first resolution: what goes deeper, and what skips to the way up."""
        ...

    def deep(self, h: Tensor, fixed: Any) -> Tensor:
        """All other resolutions, down and up."""
        ...

    def finish(self, h: Tensor, skips: list[Tensor], fixed: Any) -> Tensor:
        """The way up at the first resolution, and the network's output."""
        ...


class DeepFeatures:
    """The deep features of one trajectory: computed at the times `deep_at`, used again at all others.

    `channels` are the network's; raises ConfigError where there is one resolution only, none of it deep.
    """

    def __init__(self, deep_at: Collection[float], channels: Sequence[int]) -> None:
        if len(channels) < 2:
            raise ConfigError(
                f"A network of {len(channels)} resolution has no deep features to reuse.", "Leave reuse out."
            )
        self._deep_at = frozenset(float(t) for t in deep_at)
        self._kept: Tensor | None = None

    def step(self, network: TwoDepths, x: Tensor, fixed: Any, t: float) -> Tensor:
        """The network's output for its input `x` at time `t`."""
        h, skips = network.begin(x, fixed)
        if self._kept is None or float(t) in self._deep_at:
            self._kept = network.deep(h, fixed)
        return network.finish(self._kept, skips, fixed)
