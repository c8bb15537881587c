"""The order in which examples are seen: a new shuffle per epoch, that continues in the middle of one."""

import torch

from kandinsky.core.errors import CheckpointError
from kandinsky.training.seeds import generator


class EpochSampler:
    """Endless batches of indices below `count`; every index is seen once before any is seen again.

    Each epoch's order depends on (seed, epoch) alone, so `state()` = where it stands is two numbers.
    Batches run over the end of an epoch, so all have `batch` indices even when there are fewer pictures
    than that.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"cannot draw batches of {batch} from {count} examples")
        self.count, self.batch, self.seed = count, batch, seed
        self.epoch, self.position = 0, 0
        self._order = self._shuffle()

    def next(self) -> list[int]:
        """The next `batch` indices."""
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
        """Where it stands: epoch, position in it, and how many examples there are."""
        return {"epoch": self.epoch, "position": self.position, "count": self.count}

    def restore(self, state: dict[str, int]) -> None:
        """Continues from `state()`; CheckpointError when the number of examples has changed since."""
        if state["count"] != self.count:
            raise CheckpointError(
                f"The run was started on {state['count']} examples, now there are {self.count}.",
                "Resume with the same data, or start a new run.",
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._shuffle()

    def _shuffle(self) -> list[int]:
        order: list[int] = torch.randperm(
            self.count, generator=generator(self.seed, "order", self.epoch)
        ).tolist()
        return order
