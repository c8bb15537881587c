"""Group norm in one go with what follows it, for GPUs: three small kernels where plain layers take up to six.

They are written in Triton, which comes with torch for CUDA on Linux; importing this needs it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TALL, WIDE = 32, 64
"""Positions and channels of a tile."""
FEWEST_ROWS, MOST_CHUNKS = 64, 256
"""Moments are taken of chunks of so many positions at least, and of so many chunks of a picture at most."""


def fused_group_norm(
    x: Tensor,
    groups: int,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    film: Tensor | None,
    modulation: Tensor | None,
    silu: bool,
    widest: int,
) -> Tensor:
    """As `norms.group_norm`, for x (B, C, h, w) whose channels are innermost; sums are taken in float32.

    Groups have `widest` channels at most, a power of two.
    """
    b, c, h, w = x.shape
    positions = h * w
    rows = max(FEWEST_ROWS, triton.cdiv(positions, MOST_CHUNKS))
    chunks, blocks = triton.cdiv(positions, rows), triton.cdiv(c, WIDE)
    means = torch.empty(b, chunks, c, dtype=torch.float32, device=x.device)
    squares = torch.empty_like(means)
    _moments[(chunks, blocks, b)](x, means, squares, positions, c, rows, TALL, WIDE)
    factors = torch.empty(b, 2, c, dtype=torch.float32, device=x.device)
    _factors[(groups, b)](
        means,
        squares,
        factors,
        # What is not there x stands for; it is not read.
        x if weight is None else weight,
        x if bias is None else bias,
        x if film is None else film,
        0 if film is None else film.stride(0),
        positions,
        chunks,
        c,
        c // groups,
        rows,
        eps,
        weight is not None,
        film is not None,
        TALL,
        widest,
    )
    y = torch.empty_like(x)
    beside = x if modulation is None else modulation
    shrunk = h // beside.shape[2]
    _apply[(triton.cdiv(positions, TALL), blocks, b)](
        x,
        y,
        factors,
        beside,
        *beside.stride(),
        positions,
        c,
        w,
        shrunk,
        modulation is not None,
        silu,
        TALL,
        WIDE,
    )
    return y


@triton.jit(do_not_specialize=["positions", "rows"])
def _moments(x, means, squares, positions, c, rows, TALL: tl.constexpr, WIDE: tl.constexpr):
    """Of each channel in each chunk of positions: its mean, and the sum of squares about it."""
    chunk, block, picture = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = block * WIDE + tl.arange(0, WIDE)
    there = column < c
    begin = chunk * rows
    end = tl.minimum(begin + rows, positions)
    x += picture * positions * c
    # Sums are taken of differences to the first position, lest squares of a far mean swallow them.
    pivot = tl.load(x + begin.to(tl.int64) * c + column, mask=there, other=0.0).to(tl.float32)
    first = tl.zeros([WIDE], dtype=tl.float32)
    second = tl.zeros([WIDE], dtype=tl.float32)
    for top in range(begin, end, TALL):
        row = top + tl.arange(0, TALL)
        inside = (row < end)[:, None] & there[None, :]
        place = row.to(tl.int64)[:, None] * c + column[None, :]
        tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        tile = tl.where(inside, tile - pivot[None, :], 0.0)
        first += tl.sum(tile, axis=0)
        second += tl.sum(tile * tile, axis=0)
    count = (end - begin).to(tl.float32)
    to = (picture * tl.num_programs(0) + chunk) * c + column
    tl.store(means + to, pivot + first / count, mask=there)
    tl.store(squares + to, second - first * first / count, mask=there)


@triton.jit(do_not_specialize=["film_row", "positions", "chunks", "group", "rows"])
def _factors(
    means,
    squares,
    out,
    weight,
    bias,
    film,
    film_row,
    positions,
    chunks,
    c,
    group,
    rows,
    eps,
    AFFINE: tl.constexpr,
    FILM: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """For one group of one picture: what each channel is multiplied by, and what is added then."""
    number, picture = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offset = tl.arange(0, WIDE)
    there = offset < group
    column = number * group + offset
    means += picture * chunks * c
    squares += picture * chunks * c
    total = tl.zeros([WIDE], dtype=tl.float32)
    for top in range(0, chunks, TALL):
        row = top + tl.arange(0, TALL)
        inside = (row < chunks)[:, None] & there[None, :]
        count = tl.minimum(positions - row * rows, rows).to(tl.float32)
        found = tl.load(means + row[:, None] * c + column[None, :], mask=inside, other=0.0)
        total += tl.sum(found * count[:, None], axis=0)
    size = positions.to(tl.float32) * group
    mean = tl.sum(total, axis=0) / size
    # Moments of chunks are joined as in Chan et al. 1979, "Updating formulae", eq. 2.1.
    spread = tl.zeros([WIDE], dtype=tl.float32)
    for top in range(0, chunks, TALL):
        row = top + tl.arange(0, TALL)
        inside = (row < chunks)[:, None] & there[None, :]
        count = tl.minimum(positions - row * rows, rows).to(tl.float32)
        place = row[:, None] * c + column[None, :]
        away = tl.load(means + place, mask=inside, other=0.0) - mean
        within = tl.load(squares + place, mask=inside, other=0.0)
        spread += tl.sum(tl.where(inside, within + away * away * count[:, None], 0.0), axis=0)
    scale = tl.full([WIDE], 1.0, dtype=tl.float32) / tl.sqrt(tl.sum(spread, axis=0) / size + eps)
    shift = -mean * scale
    if AFFINE:
        own = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
        scale *= own
        shift = shift * own + tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    if FILM:
        film += picture * film_row
        told = 1.0 + tl.load(film + column, mask=there, other=0.0).to(tl.float32)
        scale *= told
        shift = shift * told + tl.load(film + c + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + picture * 2 * c + column, scale, mask=there)
    tl.store(out + picture * 2 * c + c + column, shift, mask=there)


@triton.jit(do_not_specialize=["positions", "width", "shrunk"])
def _apply(
    x,
    y,
    factors,
    beside,
    beside_b,
    beside_c,
    beside_h,
    beside_w,
    positions,
    c,
    width,
    shrunk,
    MODULATED: tl.constexpr,
    SILU: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """A tile of the output."""
    top, block, picture = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = block * WIDE + tl.arange(0, WIDE)
    row = top * TALL + tl.arange(0, TALL)
    there = column < c
    inside = (row < positions)[:, None] & there[None, :]
    scale = tl.load(factors + picture * 2 * c + column, mask=there, other=0.0)
    shift = tl.load(factors + picture * 2 * c + c + column, mask=there, other=0.0)
    place = (picture * positions + row.to(tl.int64))[:, None] * c + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value = value * scale[None, :] + shift[None, :]
    if MODULATED:
        above, left = row // width // shrunk, row % width // shrunk
        at = picture * beside_b + (above * beside_h + left * beside_w)[:, None] + (column * beside_c)[None, :]
        value *= tl.load(beside + at, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(beside + at + c * beside_c, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)
