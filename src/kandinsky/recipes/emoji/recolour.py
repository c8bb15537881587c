"""The colour of what an image shows: measured over its opaque pixels, and changed to another one."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.core.errors import OutputError
from kandinsky.recipes.emoji.colours import GREY_CHROMA, NAMES, lab_of, named, rgb_of, target_lab
from kandinsky.training.tensor_cache import keep, read_kept

CLUSTERS = 6
_ROUNDS = 12
_SIDE = 32
"""Palettes are measured on images averaged down to about this side."""
_DARK = 0.6
"""Lightness counts this much in distances: the shaded side of a thing has the colour of the lit one."""
_SAME_HUE = 0.42
"""Clusters whose hues differ by less than this, in radians, are shades of one colour."""
_SAME_GREY = 22.0
LEAST = 0.42
"""A thing has a colour when this share of it has."""
_NOWHERE = 1e4
_SOFT = 60.0


@dataclass(frozen=True)
class Palette:
    """What colours images consist of.

    `centres` (N, K, 3) in Lab; `main` (N, K) bool, the clusters that are shades of the dominant colour;
    `colours` (N,) int64, that colour's id in `NAMES`, -1 where no colour dominates or none has a name;
    `shares` (N,) in [0, 1], how much of the opaque area has it.
    """

    centres: Tensor
    main: Tensor
    colours: Tensor
    shares: Tensor

    def where(self, keep: Tensor) -> "Palette":
        return Palette(self.centres[keep], self.main[keep], self.colours[keep], self.shares[keep])

    def paint(
        self, layers: Tensor, rows: Tensor, single: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Layers (B, 4, S, S) of images `rows`, a `share` of the `single` ones in other colours, and their tints.

        Tints (B,) are numbers of `captions.Tint`.
        """
        own = torch.where(single, self.colours[rows], -1)
        chance = torch.rand((len(rows), 2), generator=generator)
        other = (chance[:, 1] * len(NAMES)).long()
        # One that it has already is its own; the next one is given instead.
        other = torch.where(other == own, (other + 1) % len(NAMES), other)
        changes = (chance[:, 0] < share) & self.changeable[rows] & single
        painted = recoloured(layers, self.where(rows), torch.where(changes, other, -1))
        return painted, {"tints": torch.where(changes, other + len(NAMES), own)}

    @property
    def changeable(self) -> Tensor:
        """Which images (N,) bool have one colour that another may take the place of."""
        return self.shares >= LEAST


def measured(layers: Tensor) -> Palette:
    """The palettes of premultiplied RGBA images (N, 4, S, S), 0 to 255; nothing is drawn at random."""
    found = [_measure(layer.float()) for layer in layers]
    return Palette(*(torch.stack(column) for column in zip(*found, strict=True)))


def kept_palette(layers: Tensor, cache: Path) -> Palette:
    """What `measured` finds, read from `cache` where the same images were measured before."""
    name = hashlib.blake2b(layers.numpy().tobytes(), digest_size=16).hexdigest()
    path = cache / f"palette-1-{name}.safetensors"
    if (kept := read_kept(path)) is not None and kept[0].keys() == {field.name for field in fields(Palette)}:
        return Palette(**kept[0])
    palette = measured(layers)
    with suppress(OSError, OutputError):  # a read-only folder is no reason to fail
        keep(path, vars(palette))
    return palette


def _measure(layer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    side = max(1, layer.shape[-1] // _SIDE)
    small = torch.nn.functional.avg_pool2d(layer[None], side)[0].flatten(1).T
    opaque = small[small[:, 3] > 200]
    if len(opaque) < 2 * CLUSTERS:
        nothing = torch.zeros(CLUSTERS, 3)
        return nothing, torch.zeros(CLUSTERS, dtype=torch.bool), torch.tensor(-1), torch.tensor(0.0)
    lab = lab_of((opaque[:, :3] / opaque[:, 3:]).clamp(0, 1))
    centres, main, votes, share = dominant(lab)
    best = votes.argmax() - 1
    # A red and blue thing has shades of one hue that are called by two names: neither is its colour.
    certain = (share >= LEAST) & (votes.max() >= 0.5 * votes.sum())
    return centres, main, torch.where(certain, best, -1), share


def dominant(lab: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The dominant colour of pixels (P, 3) in Lab.

    Centres (K, 3) of clusters, which are its shades (K,) bool, how many of its pixels have no name and
    each of `NAMES` (1 + 12,), and its share of all.
    """
    centres, counts = _clusters(lab)
    main = _shades_of_one(centres, counts)
    votes = named(lab[_nearest(lab, centres, main)]).add(1).bincount(minlength=len(NAMES) + 1)
    return centres, main, votes, counts[main].sum() / counts.sum()


def _weighted(lab: Tensor) -> Tensor:
    return lab * lab.new_tensor((_DARK, 1.0, 1.0))


def _clusters(lab: Tensor) -> tuple[Tensor, Tensor]:
    """k-means from the farthest points: centres (K, 3) and how many pixels each has, (K,)."""
    points = _weighted(lab)
    chosen = [points[(points - points.mean(0)).square().sum(1).argmax()]]
    for _ in range(CLUSTERS - 1):
        distances = torch.cdist(points, torch.stack(chosen)).amin(1)
        chosen.append(points[distances.argmax()])
    centres = torch.stack(chosen)
    for _ in range(_ROUNDS):
        owner = torch.cdist(points, centres).argmin(1)  # an empty cluster goes where nothing is near
        counts = owner.bincount(minlength=CLUSTERS)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), _NOWHERE)
    return centres / lab.new_tensor((_DARK, 1.0, 1.0)), counts.float()


def _shades_of_one(centres: Tensor, counts: Tensor) -> Tensor:
    """Which clusters (K,) bool are shades of the colour with the largest area."""
    chroma = centres[:, 1:].norm(dim=1)
    hue = torch.atan2(centres[:, 2], centres[:, 1])
    turn = (hue[:, None] - hue[None] + torch.pi) % (2 * torch.pi) - torch.pi
    coloured = chroma > GREY_CHROMA
    alike = (turn.abs() < _SAME_HUE) & coloured[:, None] & coloured[None]
    near = (centres[:, None, 0] - centres[None, :, 0]).abs() < _SAME_GREY
    alike |= near & ~coloured[:, None] & ~coloured[None]
    alike |= torch.eye(len(centres), dtype=torch.bool)
    areas = (alike * counts).sum(1)
    main: Tensor = alike[areas.argmax()] & (counts > 0)
    return main


def _nearest(lab: Tensor, centres: Tensor, main: Tensor) -> Tensor:
    """Which pixels (P,) bool are nearest to one of the main clusters."""
    owner: Tensor = main[torch.cdist(_weighted(lab), _weighted(centres)).argmin(1)]
    return owner


def recoloured(layers: Tensor, palette: Palette, colours: Tensor) -> Tensor:
    """Premultiplied RGBA (B, 4, S, S) float, 0 to 255, whose dominant colours become `colours` (B,) ids.

    Shades stay darker and lighter than each other, and other colours as they are. Rows of colour -1 stay as they are.
    """
    result = layers.clone()
    for row in torch.nonzero(colours >= 0).flatten().tolist():
        result[row] = _recolour(layers[row], palette.centres[row], palette.main[row], int(colours[row]))
    return result


def _recolour(layer: Tensor, centres: Tensor, main: Tensor, colour: int) -> Tensor:
    alpha = layer[3:4]
    lab = lab_of((layer[:3] / alpha.clamp(min=1)).clamp(0, 1).permute(1, 2, 0))
    distances = (_weighted(lab)[..., None, :] - _weighted(centres)).square().sum(-1)
    weight = (-distances / _SOFT).softmax(-1)[..., main].sum(-1, keepdim=True)
    counted = weight * alpha.permute(1, 2, 0)
    mean = (lab * counted).sum((0, 1)) / (counted.sum() + 1e-6)
    target = target_lab(colour).to(lab)
    changed = torch.cat((_lightness(lab, mean, target), _hues(lab, mean, target)), dim=-1)
    mixed = rgb_of(weight * changed + (1 - weight) * lab)
    return torch.cat((mixed.permute(2, 0, 1) * alpha, alpha))


def _lightness(lab: Tensor, mean: Tensor, target: Tensor) -> Tensor:
    """Lightness (H, W, 1) about the target's, with the same contrast as far as there is room."""
    middle = 0.25 * mean[0] + 0.75 * target[0]
    room = torch.minimum(middle, 100 - middle) / 45
    return (middle + (lab[..., :1] - mean[0]) * room.clamp(0.35, 1.0)).clamp(0, 100)


def _hues(lab: Tensor, mean: Tensor, target: Tensor) -> Tensor:
    """Colour (H, W, 2) turned from the mean's hue to the target's and scaled as its chroma asks."""
    own, wanted = mean[1:].norm(), target[1:].norm()
    if own > GREY_CHROMA:
        cos, sin = (mean[1] * target[1] + mean[2] * target[2], mean[1] * target[2] - mean[2] * target[1])
        length = (own * wanted).clamp(min=1e-6)
        turn = torch.stack((cos, -sin, sin, cos)).view(2, 2) / length
        if wanted < GREY_CHROMA:
            turn = torch.eye(2)
        turned: Tensor = (lab[..., 1:] @ turn.to(lab).T) * (wanted / own).clamp(max=2.5)
        return turned
    # A grey thing takes the colour on; its lightest and darkest places less.
    lit = 1 - ((lab[..., :1] - mean[0]) / 80).square()
    return target[1:] * lit.clamp(0.2, 1) + 0.3 * (lab[..., 1:] - mean[1:])
