"""The order in which examples are seen: a new shuffle per epoch, that continues in the middle of one."""

from collections.abc import Sequence
from typing import Protocol

import torch

from kandinsky.core.errors import CheckpointError
from kandinsky.training.seeds import generator


class Order(Protocol):
    """Which examples come next; `state` and `restore` let it continue where another one stood."""

    def next(self) -> list[int]:
        """The indices of the next batch."""

    def state(self) -> dict[str, int]:
        """Where it stands."""

    def restore(self, state: dict[str, int]) -> None:
        """Continues from `state()`; CheckpointError when the examples are others."""


class EpochSampler:
    """Endless batches of indices below `count`; every index is seen once before any is seen again.

    Each epoch's order is a function of (seed, epoch), so `state()` = where it stands is two numbers. Batches run over
    the end of an epoch, so all have `batch` indices even when there are fewer images than that.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"cannot draw batches of {batch} from {count} examples")
        self.count, self.batch, self.seed = count, batch, seed
        self.epoch, self.position = 0, 0
        self._order = self._shuffle()

    def next(self) -> list[int]:
        taken: list[int] = []
        while len(taken) < self.batch:
            piece = self._order[self.position : self.position + self.batch - len(taken)]
            taken += piece
            self.position += len(piece)
            if self.position == self.count:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._shuffle()
        return taken

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, "count": self.count}

    def restore(self, state: dict[str, int]) -> None:
        if state["count"] != self.count:
            raise other_examples(state["count"], self.count)
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._shuffle()

    def _shuffle(self) -> list[int]:
        order: list[int] = torch.randperm(self.count, generator=generator(self.seed, "order", self.epoch)).tolist()
        return order


class GroupSampler:
    """Endless batches in which each group appears with `each` of its examples, drawn at random.

    `groups` gives the group of every example. Groups come in the order of an `EpochSampler`, whatever their
    size; one with fewer than `each` examples repeats them. What is drawn is a function of (seed, place).
    """

    def __init__(self, groups: Sequence[int], each: int, batch: int, seed: int) -> None:
        if each < 1 or batch % each:
            raise ValueError(f"batches of {batch} are not made of {each} examples a group")
        members: dict[int, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(group, []).append(index)
        self._members = list(members.values())
        self.examples, self.each, self.seed = len(groups), each, seed
        self._order = EpochSampler(len(self._members), batch // each, seed)

    def next(self) -> list[int]:
        draws = generator(self.seed, "of group", self._order.epoch, self._order.position)
        taken: list[int] = []
        for group in self._order.next():
            members = self._members[group]
            shuffled = torch.randperm(len(members), generator=draws).tolist()
            taken += [members[shuffled[number % len(members)]] for number in range(self.each)]
        return taken

    def state(self) -> dict[str, int]:
        return {**self._order.state(), "examples": self.examples}

    def restore(self, state: dict[str, int]) -> None:
        if state.get("examples") != self.examples:
            raise other_examples(state.get("examples", state["count"]), self.examples)
        self._order.restore(state)


def other_examples(then: int, now: int) -> CheckpointError:
    """The error of a run that was started on other examples."""
    return CheckpointError(
        f"The run was started on {then} examples, now there are {now}.",
        "Resume with the same data and settings, or start a new run.",
    )
