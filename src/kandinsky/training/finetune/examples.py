"""What fine-tuning sees: captions beside pictures, or beside what the frozen networks made of them once."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kandinsky.training.config import Stage
from kandinsky.training.data.buckets import BucketSampler
from kandinsky.training.data.captions import Grammar
from kandinsky.training.data.hints import edge_hints
from kandinsky.training.data.masks import random_regions
from kandinsky.training.data.order import Order
from kandinsky.training.data.pictures import PictureSet
from kandinsky.training.events import Event
from kandinsky.training.finetune.base_checkpoint import Base
from kandinsky.training.stages.sources import (
    FACTS,
    PictureSource,
    drawn_again,
    encode_once,
)
from kandinsky.training.stages.workshop import Workshop, augmentation, encoders_stamp
from kandinsky.training.task import Source


@dataclass(frozen=True)
class Examples:
    """Rows of a batch: captions, and pictures as `pixels` (B, 3, S, S) or as their encodings, float32.

    `encodings` holds `latents` (B, C, h, w) and, where there is a prior, `embeddings` (B, D); `weights` (B,)
    is how much each row's loss counts. Regions to `repaint` and the pictures' `alpha` are (B, 1, S, S), 1
    inside and where they are opaque; `hints` are (B, 3, S, S) in [0, 1].
    """

    captions: tuple[str, ...]
    weights: Tensor
    pixels: Tensor | None = None
    encodings: dict[str, Tensor] | None = None
    repaint: Tensor | None = None
    alpha: Tensor | None = None
    hints: Tensor | None = None

    def encoded(self, base: Base) -> dict[str, Tensor]:
        """The encodings on the device, made now where the batch does not bring them."""
        if self.encodings is None:
            assert self.pixels is not None
            return base.encode(self.pixels)
        return {name: value.to(base.device) for name, value in self.encodings.items()}

    def joined(self, other: "Examples") -> "Examples":
        """These rows, then those of `other`, which come in the same form."""

        def both(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else torch.cat([mine, theirs])

        encodings = None
        if self.encodings is not None and other.encodings is not None:
            encodings = {
                name: torch.cat([mine, other.encodings[name]]) for name, mine in self.encodings.items()
            }
        weights = torch.cat([self.weights, other.weights])
        return Examples(
            self.captions + other.captions,
            weights,
            both(self.pixels, other.pixels),
            encodings,
            both(self.repaint, other.repaint),
            both(self.alpha, other.alpha),
            both(self.hints, other.hints),
        )


@dataclass(frozen=True)
class Plain:
    """Pictures, augmented anew for every batch."""

    source: PictureSource

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """Augmented pictures with captions."""
        batch = self.source.batch(indices, generator)
        ones = torch.ones(len(batch))
        return Examples(batch.captions, ones, batch.pixels, alpha=batch.alpha, hints=batch.hints)


@dataclass(frozen=True)
class Cached:
    """`variants` encoded augmentations of each picture, captions drawn anew for every batch."""

    pictures: PictureSet
    tensors: dict[str, Tensor]
    variants: int

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """One variant of each picture, drawn at random."""
        rows, _, said = drawn_again(self.pictures, self.tensors, self.variants, indices, generator)
        captions = tuple(caption.text for caption in said)
        found = {name: value[rows].float() for name, value in self.tensors.items() if name not in FACTS}
        return Examples(captions, torch.ones(len(rows)), encodings=found)


@dataclass(frozen=True)
class Beside:
    """Each row of `first` with a random row of `second`, whose losses count `weight`."""

    first: Source
    second: Source
    weight: float

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """The rows of these indices, then as many of the other source."""
        mine: Examples = self.first.batch(indices, generator)
        others = torch.randint(len(self.second), (len(indices),), generator=generator).tolist()
        theirs: Examples = self.second.batch(others, generator)
        return mine.joined(replace(theirs, weights=self.weight * theirs.weights))


@dataclass(frozen=True)
class WithRegions:
    """Examples of `source`, each with a region to repaint; a share `box` of them are boxes.

    `downscale` is how many pixels along a side are one latent.
    """

    source: Source
    downscale: int
    box: float

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """The rows of these indices, and regions of their own."""
        found: Examples = self.source.batch(indices, generator)
        count = len(found.captions)
        if found.pixels is not None:
            height, width = found.pixels.shape[-2:]
        else:
            assert found.encodings is not None
            height, width = (self.downscale * side for side in found.encodings["latents"].shape[-2:])
        return replace(found, repaint=random_regions(count, height, width, self.box, generator))


@dataclass(frozen=True)
class WithEdges:
    """Examples of `source`, each with the edges of its picture as its hint."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """The rows of these indices, and their edges."""
        found: Examples = self.source.batch(indices, generator)
        assert found.pixels is not None
        return replace(found, hints=edge_hints(found.pixels))


@dataclass(frozen=True)
class Joined:
    """Several sources in a row, whose pictures have different shapes; a batch is of one of them."""

    sources: tuple[Source, ...]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        """The rows of these indices, all of which are of one source."""
        first = 0
        for source in self.sources:
            if indices[0] < first + len(source):
                found: Examples = source.batch([index - first for index in indices], generator)
                return found
            first += len(source)
        raise IndexError(indices[0])


@dataclass(frozen=True)
class Lesson:
    """What is learned from: the examples, their order where it is no plain one, and pictures to show.

    Those of `held_out`, in sets of one shape, are measured on.
    """

    source: Source
    shown: PictureSet
    held_out: Sequence[PictureSet] = ()
    order: Callable[[int, int], Order] | None = None


Beyond = Callable[[PictureSet, Source], Generator[Event, None, Source]]
"""What makes of pictures of one shape, and the examples they are, the examples to learn from."""


def lesson_of(
    shop: Workshop,
    stage: Stage,
    base: Base,
    grammar: Grammar | None = None,
    beyond: Beyond | None = None,
) -> Generator[Event, None, Lesson]:
    """The pictures that a stage learns from, in one shape or in buckets, with captions or a `grammar`."""
    sets, held_out = shop.shapes(stage, grammar)
    for pictures in sets:
        base.check_size(*pictures.shape)
    sources = []
    for pictures in sets:
        source = yield from examples_of(shop, stage, base, pictures)
        sources.append(source if beyond is None else (yield from beyond(pictures, source)))
    shown = next(iter(held_out), sets[0])
    if shop.config.data.buckets is None:
        return Lesson(sources[0], shown, held_out)
    order = partial(BucketSampler, [len(pictures) for pictures in sets])
    return Lesson(Joined(tuple(sources)), shown, held_out, order)


def examples_of(
    shop: Workshop, stage: Stage, base: Base, pictures: PictureSet
) -> Generator[Event, None, Source]:
    """The rows of a picture set: from the cache when the stage keeps variants, else from the pictures."""
    source = PictureSource(pictures, augmentation(stage))
    if stage.variants == 0:
        return Plain(source)
    tensors = yield from encode_once(
        source,
        stage.variants,
        base.encode,
        encoders_stamp(base.model.modules),
        shop.config.out / "cache",
        shop.config.seed,
        stage.name,
    )
    return Cached(pictures, tensors, stage.variants)
