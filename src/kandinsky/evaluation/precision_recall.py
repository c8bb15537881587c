"""How much of what is drawn looks real, and how much of what is real is drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.evaluation.moments import check_widths

NEIGHBOURS = 3
BLOCK = 2048


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]; `neighbours` is k of the manifolds' radii."""

    precision: float
    recall: float
    neighbours: int = NEIGHBOURS


def precision_recall(drawn: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi 2019, equation 1) of features (N, D) and (M, D).

    Precision is the share of drawn images that lie within the distance of a real one to its k-th nearest real
    neighbour; recall the share of real images, by those of drawn ones. Raises DataError for different widths
    or for sets of k images or fewer.
    """
    check_widths(drawn, real)
    if min(len(drawn), len(real)) <= neighbours:
        raise DataError(
            f"{min(len(drawn), len(real))} images are too few for {neighbours} neighbours.", "Give more images."
        )
    precision = _covered(drawn.double(), real.double(), neighbours)
    recall = _covered(real.double(), drawn.double(), neighbours)
    return PrecisionRecall(precision, recall, neighbours)


def _covered(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """The share of points within the radius of any point of the manifold."""
    # Itself is the nearest, at distance 0.
    radii = torch.cat(
        [_distances(part, manifold).kthvalue(neighbours + 1).values for part in torch.split(manifold, BLOCK)]
    )
    inside = [(_distances(part, manifold) <= radii).any(dim=1) for part in torch.split(points, BLOCK)]
    return float(torch.cat(inside).double().mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # The quick way by a matrix product is off by more than neighbours are apart where images are alike.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
