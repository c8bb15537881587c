"""How original files lay out numbers: there and back, and against the plain definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.checkpoints.keymap import ROW, STACKED, TIED, TRANSPOSED, convolution, interleaved
from kandinsky.core.errors import CheckpointError

SIZES = st.integers(1, 4)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, SIZES, st.booleans())
def test_interleaved_heads(parts: int, heads: int, head_dim: int, bias: bool) -> None:
    shape = (heads * parts * head_dim,) if bias else (heads * parts * head_dim, 3)
    foreign = torch.arange(torch.Size(shape).numel()).reshape(shape)
    layout = interleaved(parts, head_dim)
    native = layout.pack([foreign])
    for part in range(parts):
        for head in range(heads):
            ours = native[(part * heads + head) * head_dim :][:head_dim]
            theirs = foreign[(head * parts + part) * head_dim :][:head_dim]
            assert torch.equal(ours, theirs)
    (back,) = layout.unpack(native, 1)
    assert torch.equal(back, foreign)
    assert back.is_contiguous()


def test_rows_must_make_whole_heads() -> None:
    with pytest.raises(CheckpointError, match="10 rows is not made of heads of 3 x 2"):
        interleaved(3, 2).pack([torch.zeros(10, 4)])


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_convolutions_of_size_one(axes: int, dtype: torch.dtype) -> None:
    weights = [torch.randn(4, 6, *[1] * axes).to(dtype) for _ in range(3)]
    biases = [torch.randn(4).to(dtype) for _ in range(3)]
    layout = convolution(axes, STACKED)
    assert layout.pack(weights).shape == (12, 6)
    assert layout.pack(biases).shape == (12,)
    for parts in (weights, biases):
        back = layout.unpack(layout.pack(parts), 3)
        assert all(torch.equal(ours, part) and ours.dtype == dtype for ours, part in zip(back, parts, strict=True))


def test_transposed_and_rows() -> None:
    matrix, vector = torch.randn(3, 5), torch.randn(4)
    assert torch.equal(TRANSPOSED.pack([matrix]), matrix.T)
    assert torch.equal(TRANSPOSED.unpack(matrix.T, 1)[0], matrix)
    assert ROW.pack([vector]).shape == (1, 4)
    assert torch.equal(ROW.unpack(vector[None], 1)[0], vector)


def test_tied_tables_without_memory_are_taken_as_they_are() -> None:
    first, second = torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")
    assert TIED.pack([first, second]) is first
