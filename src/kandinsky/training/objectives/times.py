"""Which noise levels are trained on."""

from collections.abc import Callable, Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from kandinsky.training.distributed import World


class TimeSampler(Protocol):
    """Draws times and weighs each row's loss, so that the mean stays that of uniform times."""

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Times (B,) int64 and weights (B,) float32."""

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Notes the losses (B,) at times (B,), which count from the next `sync` on."""

    def sync(self, world: World) -> None:
        """Ends a step: what processes have noted is the same in all of them."""


class UniformTimes(nn.Module):
    """Every time is as likely as any other."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.count, (count,), generator=generator, device=device)
        return t, torch.ones(count, device=device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Uniform times learn nothing."""

    def sync(self, world: World) -> None:
        """Nor is there anything to share."""


class SecondMomentTimes(nn.Module):
    """Times in proportion to the root of their loss's second moment (Nichol & Dhariwal 2021, eq. 18).

    The last `history` losses of each time are kept in buffers; until every time has that many, times are
    uniform. A share `uniform` of the draws always is. Within a step all draws are from one distribution, so
    that processes which share the step draw as a single one does.
    """

    def __init__(self, count: int, history: int = 10, uniform: float = 0.001) -> None:
        super().__init__()
        self.uniform = uniform
        self.register_buffer("losses", torch.zeros(count, history, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(count, dtype=torch.int64))
        self.losses: Tensor
        self.seen: Tensor
        self._noted: list[tuple[Tensor, Tensor]] = []

    def probabilities(self) -> Tensor:
        """How likely each time is now, (T,) float64."""
        count, history = self.losses.shape
        if bool((self.seen < history).any()):
            return torch.full_like(self.losses[:, 0], 1 / count)
        weights = self.losses.square().mean(1).sqrt()
        return (1 - self.uniform) * weights / weights.sum() + self.uniform / count

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        t = torch.multinomial(p, count, replacement=True, generator=generator)
        return t.to(device), (1 / (len(p) * p[t])).float().to(device)

    @torch.no_grad()
    def learn(self, t: Tensor, losses: Tensor) -> None:
        self._noted.append((t, losses.detach().double()))

    @torch.no_grad()
    def sync(self, world: World) -> None:
        if not self._noted:
            return
        t, losses = (world.gathered(torch.cat(column)) for column in zip(*self._noted, strict=True))
        self._noted.clear()
        history = self.losses.shape[1]
        for time, loss in zip(t.tolist(), losses, strict=True):
            # Ring buffer: the order of the last losses does not matter for their second moment.
            self.losses[time, self.seen[time] % history] = loss
            self.seen[time] += 1


def sync_across_ranks(samplers: Iterable[nn.Module], world: World) -> None:
    """Ends a step of several samplers."""
    for sampler in samplers:
        cast(TimeSampler, sampler).sync(world)


TIME_SAMPLERS: dict[str, Callable[[int], UniformTimes | SecondMomentTimes]] = {
    "uniform": UniformTimes,
    "second_moment": SecondMomentTimes,
}
