"""Whether the style and the background that a caption names are those of the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kandinsky.core.errors import DataError

CORNER = 4
"""Pixels of a corner's side in which only background is expected."""


@dataclass(frozen=True)
class Share:
    """How many of `images` have what their captions name, in [0, 1]; `chance` is what guessing gives."""

    right: float
    chance: float
    images: int


@dataclass(frozen=True)
class StyleReader:
    """A linear classifier of styles on features (N, D), fitted on real images by ridge regression.

    `known` (K,) are the style ids that it tells apart.
    """

    known: Tensor
    mean: Tensor
    scale: Tensor
    weights: Tensor
    shares: Tensor

    @classmethod
    def fit(cls, features: Tensor, styles: Tensor, ridge: float = 0.3) -> "StyleReader":
        """Regresses one-hot styles on standardised features (Hastie et al., "The Elements of Statistical
        Learning", section 4.2); `ridge` is the penalty next to a feature's own variance.

        Raises DataError when there are not two styles.
        """
        known, classes = torch.unique(styles, return_inverse=True)
        if len(known) < 2:
            raise DataError(f"There is one style, {known.tolist()}.", "A classifier needs two.")
        x = features.double()
        mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
        x = (x - mean) / scale
        wanted = functional.one_hot(classes, len(known)).double()
        shares = wanted.mean(dim=0)
        square = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(square, x.T @ (wanted - shares) / len(x))
        return cls(known, mean, scale, weights, shares)

    def __call__(self, features: Tensor) -> Tensor:
        """Features (N, D) to style ids (N,)."""
        x = (features.double() - self.mean) / self.scale
        return self.known[(x @ self.weights + self.shares).argmax(dim=1)]

    def share(self, features: Tensor, wanted: Tensor) -> Share:
        """How many of the images with these features have the `wanted` style, ids (N,)."""
        return _share(self(features) == wanted, len(self.known))


def background_share(images: Tensor, wanted: Tensor, palette: Sequence[tuple[int, int, int]]) -> Share:
    """How many images (N, 3, H, W) in [-1, 1] have, of a palette of RGB 0 to 255, the `wanted` colour.

    `wanted` (N,) are indices into the palette. An image's background is the mean of its two upper corners;
    its colour is the nearest by Euclidean distance in RGB. Raises DataError for an empty set.
    """
    corners = torch.cat((images[..., :CORNER, :CORNER], images[..., :CORNER, -CORNER:]), dim=-1)
    colours = corners.double().mean(dim=(2, 3))
    nearest = torch.cdist(colours, torch.tensor(palette, dtype=torch.float64) / 127.5 - 1).argmin(dim=1)
    return _share(nearest == wanted, len(palette))


def _share(right: Tensor, choices: int) -> Share:
    if len(right) == 0:
        raise DataError("There is no image to look at.", "Give at least one.")
    return Share(float(right.double().mean()), 1 / choices, len(right))
