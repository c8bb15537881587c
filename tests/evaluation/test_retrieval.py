"""Ranks of concepts: one per concept, fair on ties, refused for what is not shown."""

import pytest
import torch

from kandinsky.core.errors import DataError
from kandinsky.evaluation.retrieval import concept_ranks, retrieval

GALLERY = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0], [0.7, 0.7]])
CONCEPTS = torch.tensor([7, 7, 3, 9, 4])


def test_a_concept_counts_once_and_by_its_nearest_image() -> None:
    queries = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    # From the right: 7 (twice, but one concept), 4, 3, 9.
    assert concept_ranks(queries, torch.tensor([7, 4, 3, 9]), GALLERY, CONCEPTS).tolist() == [0, 1, 2, 3]


def test_length_does_not_matter() -> None:
    queries = torch.tensor([[0.01, 0.9], [0.01, 0.9]])
    a = concept_ranks(queries, torch.tensor([3, 9]), GALLERY, CONCEPTS)
    assert torch.equal(a, concept_ranks(queries * 50, torch.tensor([3, 9]), GALLERY * 3, CONCEPTS))


def test_shares() -> None:
    found = retrieval(GALLERY, CONCEPTS, GALLERY, CONCEPTS)
    assert (found.top1, found.top5, found.chance, found.queries) == (1.0, 1.0, 0.25, 5)
    wrong = retrieval(GALLERY[:1].repeat(4, 1), torch.tensor([7, 3, 4, 9]), GALLERY, CONCEPTS)
    assert wrong.top1 == 0.25
    many = torch.eye(12)
    far = retrieval(many[:1], torch.tensor([11]), many, torch.arange(12))
    assert (far.top1, far.top5) == (0.0, 0.0)


def test_constant_features_find_nothing() -> None:
    same = torch.ones(20, 4)
    found = retrieval(same, torch.arange(20), same, torch.arange(20))
    assert (found.top1, found.top5) == (0.0, 0.0)


def test_errors() -> None:
    with pytest.raises(DataError, match="no image of concept 5"):
        concept_ranks(GALLERY[:1], torch.tensor([5]), GALLERY, CONCEPTS)
    with pytest.raises(DataError, match="no image to search with"):
        retrieval(GALLERY[:0], CONCEPTS[:0], GALLERY, CONCEPTS)
