"""Layers in operators that MindSpore has on a CPU and on Ascend, as functions of arrays that `ms.jit` compiles.

Images are (B, h, w, C), channels innermost: so attention, 1x1 convolutions and norms need no transposition, and the
windows of a convolution are gathered row by row. Matrices are (O, I); see `weights.laid_out` for convolutions.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from mindspore import dtype as mstype

AT_ONCE = 2**26
"""Numbers of windows, or of logits, that are one part of the work; a compiled graph may hold several parts at once."""
MOST_PARTS = 128
"""In how many parts the work of a layer is done at most: the compiler's stack grows with each, and has an end."""
HIDDEN = -1e9
"""What is added to the logits of rows that are not to be seen."""
Arrays = tuple[Tensor, ...]

_times_transposed = ops.MatMul(transpose_b=True)
_batch_times = ops.BatchMatMul()
_batch_times_transposed = ops.BatchMatMul(transpose_b=True)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tuples of arrays, then of sizes, that is compiled once for each of their shapes.

    `ms.jit` takes what is inside a tuple for constants, and would compile anew for each value.
    """

    def flat(lengths: tuple[int, ...], sizes: tuple[Any, ...], *arrays: Tensor) -> Any:
        groups = []
        first = 0
        for length in lengths:
            groups.append(arrays[first : first + length])
            first = first + length
        return function(*groups, *sizes)

    run = ms.jit(flat)

    def call(*given: Any) -> Any:
        groups = [one for one in given if isinstance(one, tuple)]
        sizes = given[len(groups) :]
        return run(tuple(map(len, groups)), sizes, *(array for group in groups for array in group))

    return call


def matrix(x: Tensor, weight: Tensor) -> Tensor:
    """A linear layer without bias, on the last axis of x."""
    y = _times_transposed(x.reshape(-1, x.shape[-1]), weight)
    return y.reshape((*x.shape[:-1], weight.shape[0]))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution, on the last axis of x."""
    return matrix(x, weight) + bias


def conv3(x: Tensor, windows: Arrays, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """A 3x3 convolution of x (B, h, w, C), whose `windows` are those of its size."""
    b, height, width, c = x.shape
    rows = ops.cat((x.reshape(b, height * width, c), ops.zeros((b, 1, c), x.dtype)), 1)
    made = []
    for places in windows:
        columns = ops.gather(rows, places, 1).reshape(-1, 9 * c)
        y = _times_transposed(columns, weight) + bias
        made.append(y.reshape(b, -1, width // stride, weight.shape[0]))
    return made[0] if len(windows) == 1 else ops.cat(tuple(made), 1)


@compiled
def convolved(x: Arrays, seen: Arrays, layer: Arrays, stride: int = 1) -> Tensor:
    """`conv3` of x alone in its tuple."""
    return conv3(x[0], seen, layer[0], layer[1], stride)


@cache
def windows(x_shape: tuple[int, ...], stride: int = 1, before: bool | None = None) -> Arrays:
    """The places that the outputs of a 3x3 convolution of x (B, h, w, C) see, 9 an output; the place behind the last is
    zero. A border of zeros is below x and on its right, and also `before` it: by default with stride 1 only."""
    b, height, width, c = x_shape
    offset = int(stride == 1 if before is None else before)
    ys = np.arange(0, height, stride)[:, None] + np.arange(3) - offset
    xs = np.arange(0, width, stride)[:, None] + np.arange(3) - offset
    ys, xs = ys[:, None, :, None], xs[None, :, None, :]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    found = np.where(inside, ys * width + xs, height * width).astype(np.int32)
    lines = _at_once(9 * b * c * found.shape[1], len(found))
    return tuple(Tensor(found[first : first + lines].reshape(-1)) for first in range(0, len(found), lines))


def _at_once(numbers: int, rows: int) -> int:
    """How many of the rows, of so many numbers each, are one part of the work."""
    return max(max(AT_ONCE // numbers, 1), (rows + MOST_PARTS - 1) // MOST_PARTS)  # noqa: PLW3301  # a compiler reads this


def projected(x: Tensor, layer: Arrays) -> Tensor:
    """x through a 1x1 convolution, where there is one."""
    return linear(x, layer[0], layer[1]) if len(layer) > 0 else x


def halved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of kernel and stride 2: (B, h, w, C) -> (B, h / 2, w / 2, O)."""
    b, height, width, c = x.shape
    blocks = x.reshape(b, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return linear(blocks.reshape(b, height // 2, width // 2, 4 * c), weight, bias)


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of kernel and stride 2: (B, h, w, C) -> (B, 2 h, 2 w, O)."""
    b, height, width, c = x.shape
    o = bias.shape[0]
    y = _times_transposed(x.reshape(-1, c), weight).reshape(b, height, width, 2, 2, o)
    return y.permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * height, 2 * width, o) + bias


def averaged(x: Tensor) -> Tensor:
    """The mean of each 2 x 2 positions: (B, h, w, C) -> (B, h / 2, w / 2, C)."""
    b, height, width, c = x.shape
    return x.reshape(b, height // 2, 2, width // 2, 2, c).mean((2, 4))


def nearest(x: Tensor) -> Tensor:
    """Each position twice in both directions: (B, h, w, C) -> (B, 2 h, 2 w, C)."""
    b, height, width, c = x.shape
    spread = ops.tile(x.reshape(b, height, 1, width, 1, c), (1, 1, 2, 1, 2, 1))
    return spread.reshape(b, 2 * height, 2 * width, c)


def group_norm(x: Tensor, groups: int, eps: float) -> Tensor:
    """Group norm of x (B, h, w, C) without weights; its statistics and the result are in float32."""
    b, height, width, c = x.shape
    wide = x.astype(mstype.float32).reshape(b, height * width, groups, c // groups)
    apart = wide - wide.mean((1, 3), keep_dims=True)
    variance = (apart * apart).mean((1, 3), keep_dims=True)
    return (apart * ops.rsqrt(variance + eps)).reshape(b, height, width, c)


def layer_norm(x: Tensor, layer: Arrays, eps: float = 1e-5) -> Tensor:
    """Layer norm on the last axis, by a weight and a bias; statistics in float32."""
    wide = x.astype(mstype.float32)
    apart = wide - wide.mean(-1, keep_dims=True)
    y = apart * ops.rsqrt((apart * apart).mean(-1, keep_dims=True) + eps)
    return y.astype(x.dtype) * layer[0] + layer[1]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x over its root mean square, times a weight, on the last axis; statistics in float32."""
    wide = x.astype(mstype.float32)
    y = wide * ops.rsqrt((wide * wide).mean(-1, keep_dims=True) + eps)
    return y.astype(weight.dtype) * weight


def heads_of(x: Tensor, heads: int) -> Tensor:
    """Tokens (B, L, heads * d) -> (B, heads, L, d)."""
    b, length, width = x.shape
    return x.reshape(b, length, heads, width // heads).permute(0, 2, 1, 3)


def padded_length(length: int, room: int = 16) -> int:
    """The multiple of `room` that texts of so many tokens are padded to: what reads them is compiled for each one."""
    return -(-length // room) * room


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scaled: bool = True) -> Tensor:
    """Queries (B, heads, L, d) over keys and values (B, heads, M, d) -> (B, L, heads * d); `bias` is added to the
    logits, which are divided by the root of d if they are to be `scaled`. Shares are computed in float32."""
    b, heads, length, d = q.shape
    if scaled:
        q = q * (1 / math.sqrt(d))
    at_once = _at_once(b * heads * k.shape[2], length)
    mixed = []
    for first in range(0, length, at_once):
        logits = _batch_times_transposed(q[:, :, first : first + at_once], k).astype(mstype.float32)
        if bias is not None:
            logits = logits + bias
        mixed.append(_batch_times(ops.softmax(logits, -1).astype(v.dtype), v))
    whole = mixed[0] if len(mixed) == 1 else ops.cat(tuple(mixed), 2)
    return whole.permute(0, 2, 1, 3).reshape(b, length, heads * d)
