"""How original files lay out numbers: heads interleaved, matrices as 1x1 convolutions, vectors for rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kandinsky.checkpoints.keymap import SAME, Layout
from kandinsky.core.errors import CheckpointError


def _one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0]


TRANSPOSED = Layout(
    "transposed", lambda parts: _one(parts).T.contiguous(), lambda native, _: [native.T.contiguous()]
)
"""A matrix that the file multiplies from the other side."""

ROW = Layout("row", lambda parts: _one(parts)[None], lambda native, _: [native.squeeze(0)])
"""A vector (D,) in the file, one row (1, D) in the network."""


def interleaved(parts: int, head_dim: int) -> Layout:
    """A fused projection whose rows the file groups by head, and our networks by part.

    The file has, for each head, `head_dim` rows of each part in turn (of queries, keys and values, say); the
    network has all heads' rows of the first part, then all of the second, and so on. Packing raises
    CheckpointError when the rows are not a whole number of heads.
    """

    def regroup(tensor: Tensor, outer: int) -> Tensor:
        inner = tensor.shape[0] // (outer * head_dim)
        grouped = tensor.reshape(outer, inner, head_dim, *tensor.shape[1:])
        return grouped.transpose(0, 1).reshape(tensor.shape)

    def pack(foreign: Sequence[Tensor]) -> Tensor:
        tensor = _one(foreign)
        heads, rest = divmod(tensor.shape[0], parts * head_dim)
        if rest:
            raise CheckpointError(
                f"A projection of {tensor.shape[0]} rows is not made of heads of {parts} x {head_dim}.",
                "The file is damaged or of another model.",
            )
        return regroup(tensor, heads)

    return Layout(f"{parts} parts by heads of {head_dim}", pack, lambda native, _: [regroup(native, parts)])


def convolution(axes: int, layout: Layout = SAME) -> Layout:
    """Weights of convolutions of size 1 in the file, matrices in the network; biases are the same in both.

    `axes` is the number of spatial axes, all of length 1; `layout` says how the tensors lie otherwise.
    """

    def matrix(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 1 else tensor.flatten(1)

    def kernel(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 1 else tensor[(..., *[None] * axes)]

    return Layout(
        f"convolution of {layout.name}",
        lambda parts: layout.pack([matrix(part) for part in parts]),
        lambda native, count: [kernel(part) for part in layout.unpack(native, count)],
    )


def _pack_tied(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    for other in parts[1:]:
        # Two views of the same numbers need no comparison, and tensors without memory allow none.
        if not other.is_meta and other.data_ptr() != first.data_ptr() and not torch.equal(first, other):
            raise CheckpointError(
                f"Two copies of a tied table of shape {tuple(first.shape)} differ.",
                "The file is damaged or of another model.",
            )
    return first


TIED = Layout("tied", _pack_tied, lambda native, count: [native] * count)
"""One tensor that the file names several times."""
