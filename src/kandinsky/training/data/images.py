"""Images as training batches: decoded once, composited on a colour, augmented by name, captioned.

Everything random comes from one CPU generator, so a batch is a function of (folder, options, generator state).
"""

import random
from collections.abc import Iterator, Sequence
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

CHUNK = 256
"""How many images are looked at at a time."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A probability."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image; each but `smallest` is a probability, named so that a model card can say it."""

    mirror: Annotated[Share, Field(description="left and right are exchanged, never of what names a side")] = 0.0
    move: Annotated[Share, Field(description="shrunk and shifted inside the frame")] = 0.0
    smallest: Annotated[float, Field(gt=0, le=1, description="the least size that it is shrunk to")] = 0.75
    pair: Annotated[Share, Field(description="a second image of the same style to the right, both at half size")] = 0.0
    white: Annotated[Share, Field(description="the background of a transparent one is white, else of a colour")] = 0.55
    recolour: Annotated[Share, Field(description="of a recipe: what is shown takes another colour")] = 0.0


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


@dataclass(frozen=True, eq=False)
class Planes:
    """Rows of stored images (M, 4, H, W) uint8, which may lie in a file: read are those that are asked for."""

    stored: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return int(self.stored.shape[-2]), int(self.stored.shape[-1])

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Copies of images (B, 4, H, W), in memory, by their numbers (B,)."""
        # They lie in memory in one way wherever they come from: convolutions round differently otherwise, and a
        # resumed run would not be exact.
        return self.stored[self.rows[indices]].contiguous()

    def where(self, keep: Tensor) -> "Planes":
        return Planes(self.stored, self.rows[keep])

    def chunks(self) -> Iterator[Tensor]:
        """All images, some at a time."""
        for rows in torch.split(torch.arange(len(self)), CHUNK):
            yield self[rows]

    def opaque(self) -> Tensor:
        """Which images (N,) bool are transparent nowhere."""
        return torch.cat([part[:, 3].flatten(1).amin(dim=1) == 255 for part in self.chunks()])


@dataclass(frozen=True)
class ImageSet:
    """Images, premultiplied RGBA uint8 (N, 4, S, S), with their captions; batches of them are made on `device`.

    `concept_ids` (N,) int64 are what they show, `style_ids` point into `folder.styles`, `files` into
    `folder.records`. `hints` are images too, in the same form, where the folder has some.
    """

    folder: Folder
    planes: Planes
    files: Tensor
    concept_ids: Tensor
    style_ids: Tensor
    mirrorable: Tensor
    opaque: Tensor
    hints: Planes | None = None
    painter: Painter | None = None
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.planes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.planes.shape

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set, whose batches are made on `device`; draws stay on the CPU, so batches do not change."""
        return replace(self, device=device)

    def where(self, keep: Tensor) -> "ImageSet":
        """The images for which `keep` (N,) bool is true."""
        return replace(
            self,
            planes=self.planes.where(keep),
            files=self.files[keep],
            concept_ids=self.concept_ids[keep],
            style_ids=self.style_ids[keep],
            mirrorable=self.mirrorable[keep],
            opaque=self.opaque[keep],
            hints=None if self.hints is None else self.hints.where(keep),
            painter=None if self.painter is None else self.painter.where(keep),
        )

    def _layers(self, rows: Tensor) -> Tensor:
        """The images of `rows` (B,) on the device, (B, 4, S, S) float."""
        return self.planes[rows].to(self.device).float()

    def plain(self, indices: Tensor | Sequence[int], background: str = "white") -> Tensor:
        """Images as they are on one named colour: (B, 3, S, S) float32 in [-1, 1].

        Raises ConfigError for an unknown colour.
        """
        if background not in BACKGROUNDS:
            raise ConfigError(f"There is no background {background!r}.", nearest(background, BACKGROUNDS))
        rows = torch.as_tensor(indices, dtype=torch.int64)
        colour = torch.full((len(rows),), list(BACKGROUNDS).index(background))
        return composite(self._layers(rows), colour)

    def batch(
        self, indices: Tensor | Sequence[int], generator: torch.Generator, augmentation: Augmentation | None = None
    ) -> Batch:
        """Draws captions, colours and augmentations for `indices` (B,); see `Batch` for what comes back."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        options = augmentation or Augmentation()
        draws = Draws.of(self, rows, torch.rand((len(rows), 8), generator=generator), options)
        words = words_of(generator)
        facts = {"concepts": self.concept_ids[rows], "styles": self.style_ids[rows], **draws.facts}
        layers = self._layers(rows)
        if self.painter is not None:
            single = ~draws.paired
            layers, painted = self.painter.paint(layers, rows, single, options.recolour, generator)
            facts |= painted
        elif options.recolour:
            raise ConfigError("augmentation.recolour needs a recipe that measures colours.", "Leave it out.")
        layers = draws.placed(layers, self.planes)
        return Batch(
            composite(layers, facts["backgrounds"]),
            tuple(self.folder.captioner.captions(facts, words)),
            facts,
            rows,
            layers[:, 3:4] / 255,
            None if self.hints is None else self._placed_hints(self.hints, draws),
        )

    def _placed_hints(self, hints: Planes, draws: "Draws") -> Tensor:
        return draws.placed(hints[draws.rows].to(self.device).float(), hints)[:, :3] / 255


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

    def placed(self, layers: Tensor, planes: Planes) -> Tensor:
        """RGBA layers (B, 4, S, S) float, 0 to 255, each put where it stands in its frame, in place.

        Those to the right are taken from `planes`.
        """
        device = layers.device
        flip = torch.nonzero(self.mirrored).flatten().to(device)
        layers[flip] = layers[flip].flip(-1)
        if bool(self.moved.any()):
            at = torch.nonzero(self.moved).flatten()
            layers[at.to(device)] = place(layers[at.to(device)], self.scale[at], self.offset[at])
        if bool(self.paired.any()):
            at = torch.nonzero(self.paired).flatten()
            right = planes[self.second[at]].to(device).float()
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
    planes = Planes(torch.from_numpy(everything), files)
    records = [folder.records[place] for place in kept]
    return ImageSet(
        folder,
        planes,
        files,
        torch.tensor([record.concept for record in records]),
        torch.tensor([folder.styles.index(record.style) for record in records]),
        torch.tensor([folder.captioner.mirrorable(record.concept) for record in records]),
        planes.opaque(),
        None if hints is None else Planes(torch.from_numpy(hints), files),
        painter,
    )
