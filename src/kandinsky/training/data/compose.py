"""Pictures as layers: premultiplied RGBA, placed by area averaging and laid over a named colour."""

import torch
from torch import Tensor

from kandinsky.training.data.words import COLOURS


def place(layers: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Shrinks each picture and puts it at an offset, transparent outside, by area averaging.

    `layers` (B, C, H, W); `scale` (B,) in (0, 1]; `offset` (B, 2) of the top left corner (row, column) as a
    fraction of the side. Axis-aligned resizing is separable, so it is two matrix products.
    """
    weights = [_coverage(layers.shape[2 + axis], scale, offset[:, axis]).to(layers) for axis in (0, 1)]
    channels = layers.shape[1]
    down = weights[0][:, None].expand(-1, channels, -1, -1)
    across = weights[1][:, None].expand(-1, channels, -1, -1)
    return down @ layers @ across.transpose(-1, -2)


def _coverage(size: int, scale: Tensor, offset: Tensor) -> Tensor:
    """(B, S, S): which share of output pixel i comes from input pixel j along one axis."""
    edges = torch.arange(size, dtype=torch.float32)
    start = (edges[None] - offset[:, None] * size) / scale[:, None]
    stop = start + 1 / scale[:, None]
    overlap = torch.minimum(stop[:, :, None], edges + 1) - torch.maximum(start[:, :, None], edges)
    return overlap.clamp_min(0) * scale[:, None, None]


def composite(layers: Tensor, backgrounds: Tensor) -> Tensor:
    """Lays premultiplied RGBA (B, 4, S, S), 0 to 255, over background ids (B,): (B, 3, S, S) in [-1, 1]."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    colour = palette[backgrounds.clamp_min(0)].to(layers)[:, :, None, None]
    alpha = layers[:, 3:4]
    return torch.addcmul(layers[:, :3], colour, 1 - alpha / 255).div_(127.5).sub_(1).clamp_(-1, 1)
