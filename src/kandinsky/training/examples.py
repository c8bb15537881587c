"""Training examples of a prior or a decoder: captions with images, or with their encodings."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.buckets import BucketSampler
from kandinsky.training.data.cached_encodings import ImageSource, encode_once
from kandinsky.training.data.caption import Captioner
from kandinsky.training.data.hints import edge_hints
from kandinsky.training.data.images import AUGMENTATIONS, Augmentation, Batch, ImageSet
from kandinsky.training.data.random_masks import random_regions
from kandinsky.training.data.samplers import Order
from kandinsky.training.dataset import Reader, augmentation, learns_from
from kandinsky.training.events import Event
from kandinsky.training.task import MappedSource, Source


class Encoder(Protocol):
    """The frozen networks that make latents and embeddings."""

    @property
    def device(self) -> torch.device: ...

    @property
    def stamp(self) -> str: ...  # changes with their weights

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to `latents` and `embeddings`, float32, those that there are."""

    @property
    def multiple(self) -> int: ...  # of which the sides of images are


@dataclass(frozen=True)
class Examples:
    """Rows of a batch: captions, and images as `pixels` (B, 3, H, W) or as their encodings, float32.

    `encodings` holds `latents` (B, C, h, w) and, where there is a prior, `embeddings` (B, D); `weights` (B,)
    is how much each row's loss counts. Regions to `repaint` and the images' `alpha` are (B, 1, H, W), 1
    inside and where they are opaque; `hints` are (B, 3, H, W) in [0, 1].
    """

    captions: tuple[str, ...]
    weights: Tensor
    pixels: Tensor | None = None
    encodings: dict[str, Tensor] = field(default_factory=dict)
    repaint: Tensor | None = None
    alpha: Tensor | None = None
    hints: Tensor | None = None

    def encoded(self, encoder: Encoder) -> dict[str, Tensor]:
        """The encodings on the device, made now where the batch does not bring them."""
        if self.pixels is not None:
            return encoder.encode(self.pixels)
        return {name: value.to(encoder.device) for name, value in self.encodings.items()}

    def joined(self, other: "Examples") -> "Examples":
        """These rows, then those of `other`, which come in the same form."""

        def both(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else torch.cat([mine, theirs])

        return Examples(
            self.captions + other.captions,
            torch.cat([self.weights, other.weights]),
            both(self.pixels, other.pixels),
            {name: torch.cat([mine, other.encodings[name]]) for name, mine in self.encodings.items()},
            both(self.repaint, other.repaint),
            both(self.alpha, other.alpha),
            both(self.hints, other.hints),
        )


ExampleSource = Source[Examples]


@dataclass(frozen=True)
class PriorPreservationSource:
    """Each row of `subject` with a random row of its class, whose losses count `weight`."""

    subject: ExampleSource
    of_class: ExampleSource
    weight: float

    def __len__(self) -> int:
        return len(self.subject)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        mine = self.subject.batch(indices, generator)
        others = torch.randint(len(self.of_class), (len(indices),), generator=generator).tolist()
        theirs = self.of_class.batch(others, generator)
        return mine.joined(replace(theirs, weights=self.weight * theirs.weights))


def with_regions(source: ExampleSource, downscale: int, box: float) -> ExampleSource:
    """Examples, each with a region to repaint, `box` of them boxes; a latent is `downscale` pixels wide and high."""

    def change(batch: Examples, generator: torch.Generator) -> Examples:
        if batch.pixels is not None:
            height, width = batch.pixels.shape[-2:]
        else:
            height, width = (downscale * side for side in batch.encodings["latents"].shape[-2:])
        return replace(batch, repaint=random_regions(len(batch.captions), height, width, box, generator))

    return MappedSource(source, change)


def with_edges(source: ExampleSource) -> ExampleSource:
    """Examples, each with the edges of its image as its hint."""

    def change(batch: Examples, generator: torch.Generator) -> Examples:
        assert batch.pixels is not None
        return replace(batch, hints=edge_hints(batch.pixels))

    return MappedSource(source, change)


@dataclass(frozen=True)
class ConcatSource:
    """Several sources in a row, whose images have different shapes; a batch is of one of them."""

    sources: tuple[ExampleSource, ...]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Examples:
        first = 0
        for source in self.sources:
            if indices[0] < first + len(source):
                return source.batch([index - first for index in indices], generator)
            first += len(source)
        raise IndexError(indices[0])


@dataclass(frozen=True)
class TrainingData:
    """The examples, their order where it is no plain one, and images to show.

    Those of `held_out`, in sets of one shape, are measured on.
    """

    source: ExampleSource
    shown: ImageSet
    held_out: Sequence[ImageSet] = ()
    order: Callable[[int, int], Order] | None = None


UNREAD = "captions have no effect on this decoder; --target both teaches the prior to read them"
Wrap = Callable[[ImageSet, ExampleSource], Generator[Event, None, ExampleSource]]
"""What makes of images of one shape, and the examples they are, the examples to learn from."""


def training_data(
    ctx: TrainContext,
    stage: Stage,
    encoder: Encoder,
    size: int,
    captioner: Captioner | None = None,
    wrap: Wrap | None = None,
    readers: Sequence[Reader] | None = None,
) -> Generator[Event, None, TrainingData]:
    """The images that a stage learns from, in one shape or in buckets, with captions or a `captioner`.

    `readers` read the captions; where there are none captions need not be there, and a note says so.
    """
    unread = readers is not None and not readers
    sets, held_out = ctx.data.shapes(size, captioner, optional=unread)
    check_sizes(encoder, sets)
    yield learns_from(stage.name, sets, held_out, readers or None, UNREAD if unread else "")
    sources = []
    for images in sets:
        source = yield from examples_of(ctx, stage, encoder, images)
        sources.append(source if wrap is None else (yield from wrap(images, source)))
    shown = next(iter(held_out), sets[0])
    if ctx.config.data.buckets is None:
        return TrainingData(sources[0], shown, held_out)
    order = partial(BucketSampler, [len(images) for images in sets])
    return TrainingData(ConcatSource(tuple(sources)), shown, held_out, order)


def check_sizes(encoder: Encoder, sets: Iterable[ImageSet]) -> None:
    """Raises ConfigError for images whose sides do not fit the networks."""
    for side in (side for images in sets for side in images.shape):
        if side % encoder.multiple:
            raise ConfigError(
                f"Images of {side} pixels do not fit this checkpoint.", f"Choose a multiple of {encoder.multiple}."
            )


def examples_of(
    ctx: TrainContext, stage: Stage, encoder: Encoder, images: ImageSet
) -> Generator[Event, None, ExampleSource]:
    """The rows of a set of images: from the cache when the stage keeps variants, else the images."""
    source = ImageSource(images, augmentation(stage))
    if stage.variants == 0:
        return plain(images, source.augmentation)
    encode, stamp = encoder.encode, encoder.stamp
    encoded = yield from encode_once(source, stage.variants, encode, stamp, ctx.run.cache, ctx.seed, stage.name)

    def change(kept: tuple[Batch, dict[str, Tensor]], generator: torch.Generator) -> Examples:
        batch, encodings = kept
        return Examples(batch.captions, torch.ones(len(batch)), encodings=encodings)

    return MappedSource(encoded, change)


def plain(images: ImageSet, augmentation: Augmentation = AUGMENTATIONS["none"]) -> ExampleSource:
    """Images, augmented anew for every batch; without an augmentation as they are, transparent ones on white."""

    def change(batch: Batch, generator: torch.Generator) -> Examples:
        return Examples(batch.captions, torch.ones(len(batch)), batch.pixels, alpha=batch.alpha, hints=batch.hints)

    return MappedSource(ImageSource(images, augmentation), change)
