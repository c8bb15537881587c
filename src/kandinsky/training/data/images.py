"""Images as training batches: decoded once, composited on a colour, augmented by name, captioned.

Everything random comes from one CPU generator, so a batch is a function of (folder, options, generator state).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kandinsky.core.errors import ConfigError, DataError, nearest
from kandinsky.core.system import cache_folder
from kandinsky.training.config.run import Fit
from kandinsky.training.data.caption import Caption, names
from kandinsky.training.data.compose import BACKGROUNDS, composite, place, side_by_side
from kandinsky.training.data.decoded_cache import decoded
from kandinsky.training.data.folder import Folder, Painter, read_folder
from kandinsky.training.data.hints import decoded_hints

Share = Annotated[float, Field(ge=0, le=1)]
"""A probability."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image; each is a probability, named so that a model card can say it.

    `mirror`: left and right exchanged (never of what names a side). `move`: shrunk to between `smallest` (not 0)
    and 1 of its size and shifted inside the frame. `pair`: a second image of the same style stands to the right,
    both at half size. `white`: the background is white; otherwise one of the other named colours.
    `recolour`: what is shown takes another colour, where a recipe knows how (never next to a second image).
    """

    mirror: Share = 0.0
    move: Share = 0.0
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.75
    pair: Share = 0.0
    white: Share = 0.55
    recolour: Share = 0.0


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(white=1.0),
    "colour": Augmentation(),
    "light": Augmentation(mirror=0.5, move=0.25),
    "full": Augmentation(mirror=0.5, move=0.3, pair=0.08),
}


@dataclass(frozen=True)
class Batch:
    """B images and what is known of them.

    `pixels` (B, 3, S, S) float32 in [-1, 1]; `alpha` (B, 1, S, S) in [0, 1], 1 where they are opaque; `indices` (B,)
    int64. `facts` are (B,) int64 each, see `Facts`; background ids follow the order of `BACKGROUNDS`, -1 for an opaque
    image. `hints` (B, 3, S, S) in [0, 1] are placed and mirrored as the images are, on black.
    """

    pixels: Tensor
    said: tuple[Caption, ...]
    facts: dict[str, Tensor]
    indices: Tensor
    alpha: Tensor
    hints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.said)

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(caption.text for caption in self.said)

    def names(self, fact: str) -> Tensor:
        """Which captions name a fact, (B,) bool."""
        return names(self.said, fact)


@dataclass(frozen=True)
class ImageSet:
    """Images in memory, premultiplied RGBA uint8 (N, 4, S, S), with their captions.

    `concept_ids` (N,) int64 are what they show, `style_ids` point into `folder.styles`, `files` into
    `folder.records`. `hints` are images too, in the same form, where the folder has some.
    """

    folder: Folder
    pixels: Tensor
    files: Tensor
    concept_ids: Tensor
    style_ids: Tensor
    mirrorable: Tensor
    opaque: Tensor
    hints: Tensor | None = None
    painter: Painter | None = None

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its pixels on `device`; draws stay on the CPU, so batches do not change."""
        hints = None if self.hints is None else self.hints.to(device)
        return replace(self, pixels=self.pixels.to(device), hints=hints)

    def where(self, keep: Tensor) -> "ImageSet":
        """The images for which `keep` (N,) bool is true."""
        there = keep.to(self.pixels.device)
        return ImageSet(
            self.folder,
            self.pixels[there],
            self.files[keep],
            self.concept_ids[keep],
            self.style_ids[keep],
            self.mirrorable[keep],
            self.opaque[keep],
            None if self.hints is None else self.hints[there],
            None if self.painter is None else self.painter.where(keep),
        )

    def plain(self, indices: Tensor | Sequence[int], background: str = "white") -> Tensor:
        """Images as they are on one named colour: (B, 3, S, S) float32 in [-1, 1].

        Raises ConfigError for an unknown colour.
        """
        if background not in BACKGROUNDS:
            raise ConfigError(f"There is no background {background!r}.", nearest(background, BACKGROUNDS))
        rows = torch.as_tensor(indices, dtype=torch.int64)
        colour = torch.full((len(rows),), list(BACKGROUNDS).index(background))
        return composite(self.pixels[rows.to(self.pixels.device)].float(), colour)

    def batch(
        self, indices: Tensor | Sequence[int], generator: torch.Generator, augmentation: Augmentation | None = None
    ) -> Batch:
        """Draws captions, colours and augmentations for `indices` (B,); see `Batch` for what comes back."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        options = augmentation or Augmentation()
        draws = Draws.of(self, rows, torch.rand((len(rows), 8), generator=generator), options)
        words = words_of(generator)
        facts = {"concepts": self.concept_ids[rows], "styles": self.style_ids[rows], **draws.facts}
        layers = self.pixels[rows.to(self.pixels.device)].float()
        if self.painter is not None:
            single = ~draws.paired
            layers, painted = self.painter.paint(layers, rows, single, options.recolour, generator)
            facts |= painted
        elif options.recolour:
            raise ConfigError("augmentation.recolour needs a recipe that measures colours.", "Leave it out.")
        layers = draws.placed(layers, self.pixels)
        return Batch(
            composite(layers, facts["backgrounds"]),
            tuple(self.folder.captioner.captions(facts, words)),
            facts,
            rows,
            layers[:, 3:4] / 255,
            None if self.hints is None else self._placed_hints(self.hints, draws),
        )

    @staticmethod
    def _placed_hints(hints: Tensor, draws: "Draws") -> Tensor:
        return draws.placed(hints[draws.rows.to(hints.device)].float(), hints)[:, :3] / 255


@dataclass(frozen=True)
class Draws:
    """How the images `rows` (B,) stand in their frames, and what on.

    `second` (B,) are the images that stand to the right where `paired`; `moved` ones are shrunk to `scale`
    and put at `offset`, see `place`.
    """

    rows: Tensor
    mirrored: Tensor
    second: Tensor
    paired: Tensor
    moved: Tensor
    scale: Tensor
    offset: Tensor
    facts: dict[str, Tensor]

    @classmethod
    def of(cls, images: ImageSet, rows: Tensor, chance: Tensor, options: Augmentation) -> "Draws":
        """Decides by `chance` (B, 8), uniform in [0, 1)."""
        opaque = images.opaque[rows]
        mirrored = (chance[:, 0] < options.mirror) & images.mirrorable[rows]
        second = rows.clone()
        wanted = (chance[:, 1] < options.pair) & ~opaque
        for position in torch.nonzero(wanted).flatten().tolist():
            alike = (images.style_ids == images.style_ids[rows[position]]) & ~images.opaque
            partners = torch.nonzero(alike).flatten()
            second[position] = partners[int(chance[position, 2] * len(partners))]
        paired = wanted & (images.concept_ids[second] != images.concept_ids[rows])
        scale = options.smallest + (1 - options.smallest) * chance[:, 5]
        colours = 1 + (chance[:, 4] * (len(BACKGROUNDS) - 1)).long()
        backgrounds = torch.where(chance[:, 3] < options.white, 0, colours)
        facts = {
            "backgrounds": torch.where(opaque, -1, backgrounds),
            "beside": torch.where(paired, images.concept_ids[second], -1),
            "mirrored": mirrored.long(),
        }
        moved = (chance[:, 1] > 1 - options.move) & ~paired & ~opaque
        offset = (1 - scale)[:, None] * chance[:, 6:8]
        return cls(rows, mirrored, second, paired, moved, scale, offset, facts)

    def placed(self, layers: Tensor, planes: Tensor) -> Tensor:
        """RGBA layers (B, 4, S, S) float, 0 to 255, each put where it stands in its frame, in place.

        Those to the right are taken from `planes` (N, 4, S, S).
        """
        device = layers.device
        flip = torch.nonzero(self.mirrored).flatten().to(device)
        layers[flip] = layers[flip].flip(-1)
        if bool(self.moved.any()):
            at = torch.nonzero(self.moved).flatten()
            layers[at.to(device)] = place(layers[at.to(device)], self.scale[at], self.offset[at])
        if bool(self.paired.any()):
            at = torch.nonzero(self.paired).flatten()
            right = planes[self.second[at].to(device)].float()
            layers[at.to(device)] = side_by_side(layers[at.to(device)], right)
        return layers


def words_of(generator: torch.Generator) -> random.Random:
    """The chance that captions are drawn with, itself drawn from a generator."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))


def open_images(
    root: str | Path | Folder,
    size: int | tuple[int, int] = 64,
    *,
    split: str = "train",
    styles: Sequence[str] | None = None,
    cache: str | Path | None = None,
    fit: Fit = "cut",
) -> ImageSet:
    """Opens the images of a folder, or of one that is read already, at one size.

    `size` is the side of squares, or (height, width). `split` is "train" or "test" (or whatever the metadata
    says); "all" must be given explicitly. `styles` are those of the metadata, all when it is None.
    `cache` is where decoded images are kept (default: in `core.system.cache_folder`; memory only when that
    cannot be written). `fit` is that of `decoded`.

    Raises DataError when nothing is left, ConfigError for an unknown style.
    """
    folder = root if isinstance(root, Folder) else read_folder(root)
    if unknown := sorted(set(styles or ()) - set(folder.styles)):
        raise ConfigError(f"The folder has no style {unknown[0]!r}.", nearest(unknown[0], folder.styles))
    kept = [
        place
        for place, record in enumerate(folder.records)
        if split in ("all", record.split) and (styles is None or record.style in styles)
        for _ in range(record.times)
    ]
    if not kept:
        raise DataError(
            f"No image of split {split!r} is in {str(folder.root)!r}.", f"It holds {len(folder.records)} images in all."
        )
    kept_in = Path(cache) if cache is not None else cache_folder() / "images"
    everything, hints = decoded(folder, size, kept_in, fit), decoded_hints(folder, size, kept_in, fit)
    files = torch.tensor(kept)
    painter = None
    if folder.painter is not None:
        once, again = torch.unique(files, return_inverse=True)
        painter = folder.painter(torch.from_numpy(everything)[once].contiguous(), kept_in).where(again)
    # Images lie in memory in one way whether they come decoded or from the cache: convolutions round
    # differently otherwise, and a resumed run would not be exact.
    pixels = torch.from_numpy(everything)[files].contiguous()
    records = [folder.records[place] for place in kept]
    return ImageSet(
        folder,
        pixels,
        files,
        torch.tensor([record.concept for record in records]),
        torch.tensor([folder.styles.index(record.style) for record in records]),
        torch.tensor([folder.captioner.mirrorable(record.concept) for record in records]),
        pixels[:, 3].flatten(1).amin(dim=1) == 255,
        None if hints is None else torch.from_numpy(hints)[files].contiguous(),
        painter,
    )
