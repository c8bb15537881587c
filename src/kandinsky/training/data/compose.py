"""Images as layers: premultiplied RGBA, placed by area averaging and laid over a colour."""

import torch
from torch import Tensor

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (150, 150, 150),
    "red": (222, 48, 44),
    "orange": (246, 145, 36),
    "yellow": (252, 216, 62),
    "green": (66, 168, 78),
    "light blue": (150, 210, 246),
    "blue": (44, 96, 220),
    "purple": (134, 72, 190),
    "pink": (250, 164, 196),
    "brown": (130, 84, 52),
}
"""What transparent images are laid over, RGB 0 to 255, in the order of background ids."""


def place(layers: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Shrinks each image and puts it at an offset, transparent outside, by area averaging.

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


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two layers (B, C, H, W) each, both at half size, in the middle of the height."""
    half = torch.full((len(left),), 0.5)
    low = torch.full((len(left),), 0.25)
    return place(left, half, torch.stack((low, torch.zeros_like(low)), dim=1)) + place(
        right, half, torch.stack((low, half), dim=1)
    )


def composite(layers: Tensor, backgrounds: Tensor) -> Tensor:
    """Lays premultiplied RGBA (B, 4, S, S), 0 to 255, over background ids (B,): (B, 3, S, S) in [-1, 1]."""
    palette = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    colour = palette[backgrounds.clamp_min(0)].to(layers)[:, :, None, None]
    alpha = layers[:, 3:4]
    return torch.addcmul(layers[:, :3], colour, 1 - alpha / 255).div_(127.5).sub_(1).clamp_(-1, 1)
