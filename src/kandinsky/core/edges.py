"""Edges of an image, as a hint for decoders that were taught to follow them."""

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from kandinsky.core.images import ImageLike, open_image, to_array

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

LUMA = (0.299, 0.587, 0.114)
SMOOTHING = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def edges(
    image: ImageLike, width: int | None = None, height: int | None = None, *, low: float = 0.1, high: float = 0.2
) -> PIL.Image.Image:
    """The edges of an image, white on black, RGB.

    It is resized to `width` x `height` pixels before (its own size when they are None): edges are one pixel
    wide, so give the size that is to be drawn. `low` and `high` are those of `edge_map`. Raises RequestError
    when this is no image.
    """
    opened = open_image(image)
    pixels = to_array(opened, width or opened.width, height or opened.height)
    return PIL.Image.fromarray(edge_map(pixels, low, high)).convert("RGB")


def edge_map(pixels: NDArray[np.uint8], low: float = 0.1, high: float = 0.2) -> NDArray[np.uint8]:
    """Edges of an image (H, W, 3) uint8 as (H, W) uint8: 255 on an edge, which is one pixel wide, else 0.

    An edge begins where brightness changes by `high` and goes on while it does by `low`, both in units of the
    step from black to white, before smoothing. Source: Canny 1986, "A computational approach to edge
    detection", sections VI to VIII.
    """
    grey: Floats = (pixels.astype(np.float32) @ np.asarray(LUMA, np.float32)) / np.float32(255)
    for axis in (0, 1):
        grey = _filtered(grey, SMOOTHING, axis)
    # Sobel: the difference along one axis, smoothed along the other; a step of 1 gives a slope of 1.
    down = _filtered(_filtered(grey, (-1, 0, 1), 0), (0.25, 0.5, 0.25), 1)
    across = _filtered(_filtered(grey, (-1, 0, 1), 1), (0.25, 0.5, 0.25), 0)
    slope = np.hypot(down, across)
    ridge = _highest_across(slope, down, across)
    found = _connected(ridge & (slope >= high), ridge & (slope >= low))
    return found.astype(np.uint8) * 255


def _filtered(values: Floats, weights: tuple[float, ...], axis: int) -> Floats:
    """Correlation along one axis; the border repeats."""
    reach, length = len(weights) // 2, values.shape[axis]
    margins = [(reach, reach) if place == axis else (0, 0) for place in (0, 1)]
    padded = np.pad(values, margins, mode="edge")
    found = np.zeros_like(values)
    for place, weight in enumerate(weights):
        if weight:
            found += np.float32(weight) * padded.take(range(place, place + length), axis)
    return found


def _highest_across(slope: Floats, down: Floats, across: Floats) -> Flags:
    """Where no neighbour in the direction of the slope, to the nearest eighth of a turn, is steeper."""
    height, width = slope.shape
    padded = np.pad(slope, 1)
    direction = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    ridge = np.zeros(slope.shape, bool)
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        # Of two equal neighbours one stays, so that a symmetric edge is one pixel wide.
        ridge |= (direction == number) & (slope > ahead) & (slope >= behind)
    return ridge


def _connected(seeds: Flags, allowed: Flags) -> Flags:
    """The seeds, and what is allowed and touches them, at corners too, by way of what is allowed."""
    height, width = seeds.shape
    found = np.pad(seeds, 1)
    free = np.pad(allowed, 1) & ~found
    steps = np.array([y * (width + 2) + x for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
    flat, free_flat = found.reshape(-1), free.reshape(-1)
    front = np.flatnonzero(flat)
    while front.size:
        near = np.unique((front[:, None] + steps).reshape(-1))
        front = near[free_flat[near]]
        flat[front], free_flat[front] = True, False
    return found[1 : height + 1, 1 : width + 1]
