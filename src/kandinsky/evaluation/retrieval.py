"""Retrieval: whether an image is nearest to real images of its concept."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kandinsky.core.errors import DataError


@dataclass(frozen=True)
class Retrieval:
    """Shares in [0, 1] of images whose concept is the nearest (top-1), or among the five nearest (top-5).

    `chance` is what guessing among the gallery's concepts gives for top-1.
    """

    top1: float
    top5: float
    chance: float
    queries: int


def concept_ranks(queries: Tensor, wanted: Tensor, gallery: Tensor, concepts: Tensor) -> Tensor:
    """The rank (Q,) of the wanted concept for each query, 0 for the nearest.

    `queries` (Q, D) and `gallery` (G, D) are features, compared by cosine; `wanted` (Q,) and `concepts` (G,)
    are ids. A concept is as near as its nearest image. On a tie the wanted concept comes last, so that
    constant features score nothing. Raises DataError when a wanted concept is not in the gallery.
    """
    known, columns = torch.unique(concepts, return_inverse=True)
    places = torch.searchsorted(known, wanted).clamp_max(len(known) - 1)
    if missing := sorted(set(wanted[known[places] != wanted].tolist())):
        raise DataError(
            f"The gallery has no image of concept {missing[0]} ({len(missing)} are missing).",
            "Search only for concepts that it shows.",
        )
    likeness = functional.normalize(queries.double(), dim=1) @ functional.normalize(gallery.double(), dim=1).T
    nearest = torch.full((len(queries), len(known)), -2.0, dtype=likeness.dtype)
    nearest.scatter_reduce_(1, columns.expand(len(queries), -1), likeness, reduce="amax")
    own = nearest.gather(1, places[:, None])
    return (nearest >= own).sum(dim=1) - 1


def retrieval(queries: Tensor, wanted: Tensor, gallery: Tensor, concepts: Tensor) -> Retrieval:
    """Top-1 and top-5 of `concept_ranks`; see there for shapes and errors."""
    if len(queries) == 0:
        raise DataError("There is no image to search with.", "Give at least one query.")
    ranks = concept_ranks(queries, wanted, gallery, concepts)
    count = len(torch.unique(concepts))
    return Retrieval(float((ranks == 0).double().mean()), float((ranks < 5).double().mean()), 1 / count, len(queries))
