"""The network of a batch, closed over what it is told: of both halves of guidance, and of one alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from kandinsky.conditioning.conditions import Conditions
from kandinsky.diffusion.denoiser import Network
from kandinsky.diffusion.guidance import EVERYWHERE, Interval
from kandinsky.generations.model import Model


def interval_of(ends: tuple[float, float] | None) -> Interval:
    """Where a request wants guidance; None is everywhere."""
    return EVERYWHERE if ends is None else Interval(*ends)


@torch.no_grad()
def networks(
    model: Model,
    conditions: Conditions,
    beside: Mapping[str, Any],
    times: Sequence[float],
    T: int,
    interval: Interval = EVERYWHERE,
    reuse: int = 1,
) -> tuple[Network, Network | None]:
    """What `make_denoiser` takes as its network, and as the one alone for times outside `interval`.

    `beside` are fields of the conditions that both halves of guidance share. Each network is prepared for its
    own `times` of a process of `T`; there is one for all where nothing is guided, and where all times or none
    lie in the interval. With `reuse` N deep features are computed at every N-th time, counted anew where
    guidance begins or ends, since rows differ there.
    """
    cond, uncond = conditions.cond, conditions.uncond

    def guided(t: float) -> bool:
        return uncond is not None and interval.holds(t, T)

    deep_at = None if reuse == 1 else [t for _, run in groupby(times, guided) for t in list(run)[::reuse]]

    def closed(condition: Any, those: Sequence[float]) -> Network:
        prepared = model.network.prepare(replace(condition, **beside), those, deep_at)

        def network(x: Tensor, t: float) -> Tensor:
            return prepared.step(x.to(model.dtype), t)

        return network

    inside = [t for t in times if guided(t)]
    outside = [t for t in times if not guided(t)]
    alone = closed(cond, outside) if outside else None
    if uncond is not None and inside:
        return closed(uncond.joined(cond), inside), alone
    assert alone is not None  # there is at least one time
    return alone, None
