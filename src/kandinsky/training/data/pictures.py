"""Pictures as training batches: decoded once, composited on a colour, augmented by name, captioned.

Everything random comes from one CPU generator, so a batch is a function of (folder, options, generator
state).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.core.errors import ConfigError, DataError, nearest
from kandinsky.core.system import cache_folder
from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.plain_words import plain_nouns
from kandinsky.recipes.emoji.recolour import Palette, kept_palette, recoloured
from kandinsky.training.data.captions import CaptionGrammar, CaptionMix, Grammar, Tint, mirrorable
from kandinsky.training.data.compose import composite, place
from kandinsky.training.data.decode import Fit, decoded
from kandinsky.training.data.folder import Concept, Folder, read_folder
from kandinsky.training.data.hints import decoded_hints
from kandinsky.training.data.words import COLOURS

GROUPS: dict[str, frozenset[str]] = {
    "core": frozenset(
        {"animals and nature", "food and drink", "travel and places", "activities", "objects"},
    ),
    "faces": frozenset({"smileys"}),
    "people": frozenset({"people"}),
    "symbols": frozenset({"symbols"}),
}
"""Names that `groups` accepts besides the folder's own group names; "core" is what a small model should learn
first."""


def _span(first: int, last: int) -> frozenset[str]:
    return frozenset(f"{point:04X}" for point in range(first, last + 1))


WASTEFUL: frozenset[str] = (
    _span(0x1F550, 0x1F567)  # clock faces
    | _span(0x2648, 0x2653)  # zodiac
    | {"26CE", "1F51F"}
    | {"1F170", "1F171", "1F17E", "1F17F", "1F18E", "1F201", "1F202", "1F21A", "1F22F", "3297", "3299"}
    | _span(0x1F191, 0x1F19A)
    | _span(0x1F232, 0x1F23A)
    | {"1F250", "1F251"}
    | _span(0x1F519, 0x1F524)
)
"""Code points of clock faces, zodiac signs and letter buttons, which cost capacity and show nothing; keycaps
end in -20E3."""


def wasteful(concept: Concept) -> bool:
    """Whether a concept is a clock face, keycap, letter button or zodiac sign."""
    return concept.key in WASTEFUL or concept.key.endswith("-20E3")


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a picture; each is a probability, named so that a model card can say it.

    `mirror`: left and right exchanged (never for symbols or things that name a side). `move`: shrunk to
    between `smallest` and 1 of its size and shifted inside the frame. `pair`: a second thing of the same
    style stands to the right, both at half size. `white`: the background is white; otherwise one of the other
    named colours. `recolour`: a thing of one colour takes another one (never beside a second thing).
    """

    mirror: float = 0.0
    move: float = 0.0
    smallest: float = 0.75
    pair: float = 0.0
    white: float = 0.55
    recolour: float = 0.0


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(white=1.0),
    "colour": Augmentation(),
    "light": Augmentation(mirror=0.5, move=0.25),
    "full": Augmentation(mirror=0.5, move=0.3, pair=0.08),
}


@dataclass(frozen=True)
class Batch:
    """B pictures and what is known of them.

    `pixels` (B, 3, S, S) float32 in [-1, 1]; `alpha` (B, 1, S, S) in [0, 1], 1 where they are opaque;
    `concepts`, `styles`, `backgrounds`, `indices` (B,) int64;
    `beside` (B,) the concept on the right or -1; `mirrored` (B,) bool. Background ids follow the order of
    `words.COLOURS`; an opaque picture has background -1. `names_style`, `names_background` (B,) bool say of
    each caption what it tells besides the concept. `hints` (B, 3, S, S) in [0, 1] are placed and mirrored as
    the pictures are, on black. `tints` (B,) int64 are the things' colours, see `captions.Tint`, and
    `names_colour` (B,) bool says whether the caption tells them.
    """

    pixels: Tensor
    captions: tuple[str, ...]
    languages: tuple[str, ...]
    concepts: Tensor
    styles: Tensor
    backgrounds: Tensor
    indices: Tensor
    beside: Tensor
    mirrored: Tensor
    names_style: Tensor
    names_background: Tensor
    alpha: Tensor
    tints: Tensor
    names_colour: Tensor
    hints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class Example:
    """One row of a `Batch`: `pixels` (3, S, S) in [-1, 1], caption, language and ids."""

    pixels: Tensor
    caption: str
    language: str
    concept: int
    style: int
    background: int
    index: int


@dataclass(frozen=True)
class PictureSet:
    """Pictures in memory, premultiplied RGBA uint8 (N, 4, S, S), with their captions.

    `concept_ids`, `style_ids` (N,) int64 point into `folder.concepts` and `folder.styles`; `files` (N,) int64
    into `folder.records`. `hints` are pictures too, in the same form, where the folder has some; `palette` is
    what colours they have, where that was measured.
    """

    folder: Folder
    pixels: Tensor
    concept_ids: Tensor
    style_ids: Tensor
    files: Tensor
    grammar: Grammar
    mirrorable: Tensor
    opaque: Tensor
    hints: Tensor | None = None
    palette: Palette | None = None

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    @property
    def size(self) -> int:
        """The side of a picture in pixels."""
        return int(self.pixels.shape[-1])

    def to(self, device: torch.device | str) -> "PictureSet":
        """The same set with its pixels on `device`; draws stay on the CPU, so batches do not change."""
        moved = {name: value.to(device) for name, value in self._planes().items()}
        return PictureSet(**{**self.__dict__, **moved})

    def _planes(self) -> dict[str, Tensor]:
        planes = {"pixels": self.pixels, "hints": self.hints}
        return {name: value for name, value in planes.items() if value is not None}

    def where(self, keep: Tensor) -> "PictureSet":
        """The pictures for which `keep` (N,) bool is true."""
        rows = ("concept_ids", "style_ids", "files", "mirrorable", "opaque")
        chosen = {name: getattr(self, name)[keep] for name in rows}
        chosen |= {name: value[keep.to(value.device)] for name, value in self._planes().items()}
        palette = None if self.palette is None else self.palette.where(keep)
        return PictureSet(**{**self.__dict__, **chosen, "palette": palette})

    def concept(self, index: int) -> Concept:
        """What picture `index` shows."""
        return self.folder.concepts[int(self.concept_ids[index])]

    def plain(self, indices: Tensor | Sequence[int], background: str = "white") -> Tensor:
        """Pictures as they are on one named colour: (B, 3, S, S) float32 in [-1, 1].

        Raises ConfigError for an unknown colour.
        """
        if background not in COLOURS:
            raise ConfigError(f"There is no background {background!r}.", nearest(background, COLOURS))
        rows = torch.as_tensor(indices, dtype=torch.int64)
        colour = torch.full((len(rows),), list(COLOURS).index(background))
        return composite(self.pixels[rows.to(self.pixels.device)].float(), colour)

    def item(
        self, index: int, generator: torch.Generator, augmentation: Augmentation | None = None
    ) -> Example:
        """One example; the same draws as a batch of one."""
        batch = self.batch([index], generator, augmentation)
        return Example(
            batch.pixels[0],
            batch.captions[0],
            batch.languages[0],
            int(batch.concepts[0]),
            int(batch.styles[0]),
            int(batch.backgrounds[0]),
            int(batch.indices[0]),
        )

    def batch(
        self,
        indices: Tensor | Sequence[int],
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
        language: str | None = None,
    ) -> Batch:
        """Draws captions, colours and augmentations for `indices` (B,); see `Batch` for what comes back."""
        options = augmentation or Augmentation()
        rows = torch.as_tensor(indices, dtype=torch.int64)
        count = len(rows)
        chance = torch.rand((count, 8), generator=generator)
        words = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        mirrored = (chance[:, 0] < options.mirror) & self.mirrorable[rows]
        second, has_second = self._partners(rows, chance, options.pair)
        colours = 1 + (chance[:, 4] * (len(COLOURS) - 1)).long()
        backgrounds = torch.where(chance[:, 3] < options.white, torch.zeros_like(colours), colours)
        backgrounds = torch.where(self.opaque[rows], torch.full_like(backgrounds, -1), backgrounds)
        where = (rows, second, has_second, mirrored, chance, options)
        tints, given = self._tints(rows, has_second, options, generator)
        layers = self._placed(self.pixels, *where, given)
        hints = None if self.hints is None else self._placed(self.hints, *where)[:, :3] / 255
        beside = torch.where(has_second, self.concept_ids[second], torch.full_like(rows, -1))
        names = list(COLOURS)
        captions = [
            self.grammar.caption(
                concept,
                words,
                style=self.folder.styles[style],
                background=names[colour] if colour >= 0 else "",
                language=language,
                beside=other if other >= 0 else None,
                tint=Tint.of(tint),
            )
            for concept, style, colour, other, tint in zip(
                self.concept_ids[rows].tolist(),
                self.style_ids[rows].tolist(),
                backgrounds.tolist(),
                beside.tolist(),
                tints.tolist(),
                strict=True,
            )
        ]
        return Batch(
            composite(layers, backgrounds),
            tuple(caption.text for caption in captions),
            tuple(caption.language for caption in captions),
            self.concept_ids[rows],
            self.style_ids[rows],
            backgrounds,
            rows,
            beside,
            mirrored,
            torch.tensor([caption.names_style for caption in captions]),
            torch.tensor([caption.names_background for caption in captions]),
            layers[:, 3:4] / 255,
            tints,
            torch.tensor([caption.names_colour for caption in captions]),
            hints,
        )

    def _tints(
        self, rows: Tensor, paired: Tensor, options: Augmentation, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The tints of pictures (B,), and the colours (B,) that they are given, -1 where they keep theirs."""
        nothing = torch.full_like(rows, -1)
        if self.palette is None:
            return nothing, nothing
        own = torch.where(paired, -1, self.palette.colours[rows])
        chance = torch.rand((len(rows), 2), generator=generator)
        other = (chance[:, 1] * len(NAMES)).long()
        # One that it has already is its own; the next one is given instead.
        other = torch.where(other == own, (other + 1) % len(NAMES), other)
        changes = (chance[:, 0] < options.recolour) & self.palette.changeable[rows] & ~paired
        given = torch.where(changes, other, -1)
        return torch.where(changes, other + len(NAMES), own), given

    def _partners(self, rows: Tensor, chance: Tensor, probability: float) -> tuple[Tensor, Tensor]:
        """For each row another picture of the same style, and whether the two stand side by side."""
        wanted = (chance[:, 1] < probability) & ~self.opaque[rows]
        second = rows.clone()
        for position in torch.nonzero(wanted).flatten().tolist():
            same = torch.nonzero((self.style_ids == self.style_ids[rows[position]]) & ~self.opaque).flatten()
            second[position] = same[int(chance[position, 2] * len(same))]
        return second, wanted & (self.concept_ids[second] != self.concept_ids[rows])

    def _placed(
        self,
        planes: Tensor,
        rows: Tensor,
        second: Tensor,
        paired: Tensor,
        mirrored: Tensor,
        chance: Tensor,
        options: Augmentation,
        given: Tensor | None = None,
    ) -> Tensor:
        """The RGBA layers (B, 4, S, S) float, 0 to 255, of `planes`, each where it stands in its frame."""
        device = planes.device
        layers = planes[rows.to(device)].float()
        if given is not None and self.palette is not None:
            layers = recoloured(layers, self.palette.where(rows), given)
        flip = torch.nonzero(mirrored).flatten().to(device)
        layers[flip] = layers[flip].flip(-1)
        moved = (chance[:, 1] > 1 - options.move) & ~paired & ~self.opaque[rows]
        if bool(moved.any()):
            at = torch.nonzero(moved).flatten()
            scale = options.smallest + (1 - options.smallest) * chance[at, 5]
            offset = (1 - scale)[:, None] * chance[at, 6:8]
            layers[at.to(device)] = place(layers[at.to(device)], scale, offset)
        if bool(paired.any()):
            at = torch.nonzero(paired).flatten()
            half = torch.full((len(at),), 0.5)
            low = torch.full((len(at),), 0.25)
            left = place(layers[at.to(device)], half, torch.stack((low, torch.zeros_like(low)), dim=1))
            other = planes[second[at].to(device)].float()
            right = place(other, half, torch.stack((low, half), dim=1))
            layers[at.to(device)] = left + right
        return layers


def open_pictures(
    root: str | Path | Folder,
    size: int | tuple[int, int] = 64,
    *,
    split: str = "train",
    groups: Sequence[str] = ("core",),
    keep_wasteful: bool = False,
    styles: Sequence[str] | None = None,
    captions: CaptionMix | None = None,
    cache: str | Path | None = None,
    grammar: Grammar | None = None,
    fit: Fit = "cut",
    measure_colours: bool = False,
    common: int = 1,
) -> PictureSet:
    """Opens the pictures of a folder, or of one that is read already, at one size.

    `size` is the side of squares, or (height, width). `split` is "train" or "test" (or whatever the metadata
    says); "all" must be asked for explicitly. `groups` are names of `GROUPS`, of the folder's own groups, or
    "all"; folders without groups ignore it. `cache` is
    where decoded pictures are kept (default: in `core.system.cache_folder`; memory only when that cannot be
    written). `grammar` says what pictures show instead of the folder's captions. `fit` is that of `decoded`.
    With `measure_colours` the set has a palette. Pictures of things that have a plain word of their own
    (`plain_words`) are in the set `common` times.

    Raises DataError when nothing is left, ConfigError for an unknown group or style.
    """
    folder = root if isinstance(root, Folder) else read_folder(root)
    wanted = _wanted_groups(folder, groups)
    if unknown := sorted(set(styles or ()) - set(folder.styles)):
        raise ConfigError(f"The folder has no style {unknown[0]!r}.", nearest(unknown[0], folder.styles))
    kept = [
        i
        for i, record in enumerate(folder.records)
        if split in ("all", record.split)
        and (wanted is None or folder.concepts[record.concept].group in wanted)
        and (keep_wasteful or not wasteful(folder.concepts[record.concept]))
        and (styles is None or record.style in styles)
    ]
    if not kept:
        raise DataError(
            f"No picture of split {split!r}, groups {', '.join(groups)} is in {str(folder.root)!r}.",
            f"It holds {len(folder.records)} pictures in all.",
        )
    kept_in = Path(cache) if cache is not None else cache_folder() / "pictures"
    plain = plain_nouns()
    kept = [
        i
        for i in kept
        for _ in range(common if folder.concepts[folder.records[i].concept].key in plain else 1)
    ]
    everything, hints = decoded(folder, size, kept_in, fit), decoded_hints(folder, size, kept_in, fit)
    files = torch.tensor(kept)
    # Pictures lie in memory in one way whether they come decoded or from the cache: convolutions round
    # differently otherwise, and a resumed run would not be exact.
    pixels = torch.from_numpy(everything)[files].contiguous()
    records = [folder.records[i] for i in kept]
    style_ids = {style: i for i, style in enumerate(folder.styles)}
    palette = None
    if measure_colours:
        once, again = torch.unique(files, return_inverse=True)
        palette = kept_palette(torch.from_numpy(everything)[once].contiguous(), kept_in).where(again)
    return PictureSet(
        folder,
        pixels,
        torch.tensor([record.concept for record in records]),
        torch.tensor([style_ids[record.style] for record in records]),
        files,
        grammar or CaptionGrammar(folder.concepts, captions),
        torch.tensor([mirrorable(folder.concepts[record.concept]) for record in records]),
        (pixels[:, 3].flatten(1).amin(dim=1) == 255),
        None if hints is None else torch.from_numpy(hints)[files].contiguous(),
        palette,
    )


def _wanted_groups(folder: Folder, groups: Sequence[str]) -> frozenset[str] | None:
    present = {concept.group for concept in folder.concepts}
    if "all" in groups or present <= {""}:
        return None
    for group in groups:
        if group not in GROUPS and group not in present:
            raise ConfigError(f"There is no group {group!r}.", nearest(group, {"all", *GROUPS, *present}))
    return frozenset().union(*(GROUPS.get(group, frozenset({group})) for group in groups))
