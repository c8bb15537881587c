"""Deep features of a U-Net kept over several steps, while its first resolution is computed at each.

Source: Ma et al. 2023 (DeepCache), arXiv 2312.00858, here with the cut below the first resolution.
"""

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from kandinsky.core.errors import ConfigError

F_contra = TypeVar("F_contra", contravariant=True)
F = TypeVar("F")


class TwoDepths(Protocol[F_contra]):
    """A U-Net whose first resolution can run without the others; `fixed` is what a request fixes."""

    def begin(self, x: Tensor, fixed: F_contra) -> tuple[Tensor, list[Tensor]]:
        """The way down at the first resolution: the input of the others, and the skips."""
        ...

    def deep(self, h: Tensor, fixed: F_contra) -> Tensor:
        """All other resolutions, down and up."""
        ...

    def finish(self, h: Tensor, skips: list[Tensor], fixed: F_contra) -> Tensor:
        """The way up at the first resolution, and the network's output."""
        ...


class DeepFeatures:
    """The deep features of one trajectory, computed at the times `deep_at` and reused at all others; ConfigError for
    `channels` of a single resolution."""

    def __init__(self, deep_at: Collection[float], channels: Sequence[int]) -> None:
        if len(channels) < 2:
            raise ConfigError(
                f"A network of {len(channels)} resolution has no deep features to reuse.", "Leave reuse out."
            )
        self._deep_at = frozenset(float(t) for t in deep_at)
        self._kept: Tensor | None = None

    @classmethod
    def of(cls, deep_at: Collection[float] | None, channels: Sequence[int]) -> "DeepFeatures | None":
        """The deep features of `deep_at`; None for None, where every step computes everything."""
        return None if deep_at is None else cls(deep_at, channels)

    def step(self, network: TwoDepths[F], x: Tensor, fixed: F, t: float) -> Tensor:
        """The network's output for its input `x` at time `t`."""
        h, skips = network.begin(x, fixed)
        if self._kept is None or float(t) in self._deep_at:
            self._kept = network.deep(h, fixed)
        return network.finish(self._kept, skips, fixed)


def denoise(network: TwoDepths[F], x: Tensor, fixed: F) -> Tensor:
    """All resolutions, on latents that already carry their extra channels."""
    h, skips = network.begin(x, fixed)
    return network.finish(network.deep(h, fixed), skips, fixed)
