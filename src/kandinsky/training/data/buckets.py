"""Images of several shapes: each in the bucket of the shape nearest to its own, batches within a bucket."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from kandinsky.training.data.decoded_cache import size_of
from kandinsky.training.data.folder import Folder
from kandinsky.training.data.samplers import other_examples
from kandinsky.training.seeds import generator

WIDEST = 2.0
"""The longest side of a bucket in units of the shorter."""
Shape = tuple[int, int]
"""Height and width in pixels."""


def nearest_shape(height: int, width: int, size: int, step: int) -> Shape:
    """The shape for an image: about `size` squared pixels in all, sides multiples of `step`.

    The longer side is at most twice the shorter.
    """
    ratio = min(max(width / height, 1 / WIDEST), WIDEST) ** 0.5

    def side(length: float) -> int:
        return max(1, round(length / step)) * step

    return side(size / ratio), side(size * ratio)


def bucketed(folder: Folder, size: int, step: int) -> dict[Shape, Folder]:
    """A folder's records by their shapes, in the order of the shapes; images are not decoded for that.

    Raises DataError for a file that is no image.
    """
    found: dict[Shape, list[int]] = {}
    for place, record in enumerate(folder.records):
        width, height = size_of(folder.root / record.file_name)
        found.setdefault(nearest_shape(height, width, size, step), []).append(place)
    return {
        shape: replace(folder, records=tuple(folder.records[place] for place in found[shape]))
        for shape in sorted(found)
    }


class BucketSampler:
    """Endless batches, each within one bucket; every index is seen once an epoch, as `EpochSampler` does.

    `counts` are how many examples each bucket has; indices go on from bucket to bucket. A bucket's last batch is
    smaller where its examples do not fill it. Each epoch's order is a function of (seed, epoch, batch). An epoch that
    was begun with batches of another size is ended with them.
    """

    def __init__(self, counts: Sequence[int], batch: int, seed: int) -> None:
        self.counts, self.batch, self.seed = tuple(counts), batch, seed
        self.epoch, self.position = 0, 0
        self._each, self._batches = batch, self._shuffle(batch)

    def next(self) -> list[int]:
        if self.position == len(self._batches):
            self.epoch, self.position = self.epoch + 1, 0
            self._each, self._batches = self.batch, self._shuffle(self.batch)
        self.position += 1
        return self._batches[self.position - 1]

    def state(self) -> dict[str, int]:
        place = {"epoch": self.epoch, "position": self.position, "count": sum(self.counts)}
        return {**place, "batch": self._each, "batches": sum(-(-count // self.batch) for count in self.counts)}

    def restore(self, state: dict[str, int]) -> None:
        if state["count"] != sum(self.counts):
            raise other_examples(state["count"], sum(self.counts))
        self.epoch, self.position = state["epoch"], state["position"]
        self._each = state.get("batch", self.batch)
        self._batches = self._shuffle(self._each)

    def _shuffle(self, each: int) -> list[list[int]]:
        draws = generator(self.seed, "buckets", self.epoch)
        batches, first = [], 0
        for count in self.counts:
            order = [first + number for number in torch.randperm(count, generator=draws).tolist()]
            batches += [order[k : k + each] for k in range(0, count, each)]
            first += count
        return [batches[place] for place in torch.randperm(len(batches), generator=draws).tolist()]
