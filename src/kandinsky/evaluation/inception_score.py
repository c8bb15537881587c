"""How sure a classifier is of each image, and how many things it sees in all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kandinsky.core.errors import DataError

SPLITS = 10


@dataclass(frozen=True)
class InceptionScore:
    """The mean over parts of the set, with their standard deviation."""

    value: float
    std: float


def inception_score(probabilities: Tensor, splits: int = SPLITS) -> InceptionScore:
    """exp E KL(p(y|x) || p(y)) (Salimans 2016, section 4) of class probabilities (N, C), over parts in order.

    Raises DataError for fewer images than parts, or for rows that are no probabilities.
    """
    if probabilities.ndim != 2 or len(probabilities) < splits:
        raise DataError(f"{len(probabilities)} images are too few for {splits} parts.", "Give more images.")
    p = probabilities.double()
    if (p < 0).any() or ((p.sum(dim=1) - 1).abs() > 1e-3).any():
        raise DataError("Rows are no class probabilities.", "Give the softmax of a classifier.")
    scores = []
    for part in p.tensor_split(splits):
        mean = part.mean(dim=0, keepdim=True)
        divergence = torch.special.xlogy(part, part) - torch.special.xlogy(part, mean)
        scores.append(divergence.sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)))
