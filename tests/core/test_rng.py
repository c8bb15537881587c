"""Randomness: a row depends on its own generator alone, forks begin again, and records play back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.core.rng import PerImageRng
from tests.replay import ReplayRng

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), SHAPES)
def test_a_row_is_what_its_generator_gives_alone(seeds: list[int], shapes: list[tuple[int, int]]) -> None:
    rng = PerImageRng.from_seeds(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for shape in shapes:
        drawn = rng.normal((len(seeds), *shape))
        for row, generator in zip(drawn, generators, strict=True):
            assert torch.equal(row, torch.randn((1, *shape), generator=generator)[0])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_selected_rows_share_their_generators(data: st.DataObject) -> None:
    seeds = [3, 4, 5, 6]
    rows = data.draw(st.lists(st.sampled_from(range(4)), min_size=1, max_size=4, unique=True))
    rng, alone = PerImageRng.from_seeds(seeds), PerImageRng.from_seeds([seeds[row] for row in rows])
    first = rng.select(rows).normal((len(rows), 2))
    assert torch.equal(first, alone.normal((len(rows), 2)))
    # What some rows have drawn is gone for them, and for them only.
    after, fresh = rng.normal((4, 2)), PerImageRng.from_seeds(seeds).normal((4, 2))
    second = alone.normal((len(rows), 2))
    for row in range(4):
        wanted = second[rows.index(row)] if row in rows else fresh[row]
        assert torch.equal(after[row], wanted)


def test_a_fork_begins_again_and_touches_nothing() -> None:
    rng = PerImageRng.from_seeds([1, 2])
    first = rng.normal((2, 3))
    fork = rng.fork()
    assert torch.equal(fork.normal((2, 3)), first)
    second = rng.normal((2, 3))
    assert torch.equal(fork.normal((2, 3)), second)
    assert torch.equal(rng.select([1]).fork().normal((1, 3)), first[1:])
    assert torch.equal(rng.fork().select([1]).normal((1, 3)), first[1:])
    assert torch.equal(fork.fork().normal((2, 3)), first)


def test_a_generator_that_was_used_before_begins_where_it_was_given() -> None:
    generator = torch.Generator().manual_seed(9)
    torch.randn(5, generator=generator)
    rng = PerImageRng([generator])
    first = rng.normal((1, 4))
    assert torch.equal(rng.fork().normal((1, 4)), first)


def test_double_precision_is_drawn_as_such() -> None:
    drawn = PerImageRng.from_seeds([7], torch.float64).normal((1, 5))
    assert torch.equal(drawn, torch.randn((1, 5), generator=torch.Generator().manual_seed(7), dtype=torch.float64))


def test_rows_without_a_generator_are_not_made_up() -> None:
    with pytest.raises(ValueError, match="asked for 3 rows of noise from 2 generators"):
        PerImageRng.from_seeds([1, 2]).normal((3, 4))


def test_a_record_plays_back_in_order() -> None:
    draws = [torch.randn(3, 2), torch.randn(3, 5)]
    record = ReplayRng(draws)
    assert torch.equal(record.normal((3, 2)), draws[0])
    with pytest.raises(ValueError, match=r"draw 1 has shape \(3, 5\), asked for \(3, 2\)"):
        record.normal((3, 2))
    assert torch.equal(record.select([2, 0]).normal((2, 5)), draws[1][[2, 0]])
    with pytest.raises(ValueError, match="all 2 recorded draws are used up"):
        record.normal((3, 2))
    with pytest.raises(ValueError, match="used up"):
        record.select([0]).normal((1, 2))


def test_rows_of_a_record() -> None:
    draws = [torch.randn(3, 2), torch.randn(3, 2)]
    rows = ReplayRng(draws).select([2, 1])
    assert torch.equal(rows.normal((2, 2)), draws[0][[2, 1]])
    assert torch.equal(rows.select([1]).normal((1, 2)), draws[1][[1]])
    assert torch.equal(rows.fork().normal((2, 2)), draws[0][[2, 1]])
    with pytest.raises(ValueError, match="asked for"):
        ReplayRng(draws).select([0]).normal((1, 3))
