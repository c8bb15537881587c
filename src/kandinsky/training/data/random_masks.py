"""Random regions to repaint, as the decoder for inpainting of the original code was trained on.

Now and then a box; else a smooth blob, a wavy frame along the border, or both.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

Points = npt.NDArray[np.complex128]

BLOB_POINTS, BLOB_SCALE, BLOB_RADII, BLOB_VARIATION = 16, 1.5, (0.1, 0.6), 0.15
FRAME_POINTS, FRAME_VARIATION = (16, 32), 0.15
FRAME_SIDES = {"square": (0.05, 0.30), "circle": (0.10, 0.25)}
SMOOTHING = 8
"""Points drawn for each one that is chosen."""


def random_regions(count: int, height: int, width: int, box: float, generator: torch.Generator) -> Tensor:
    """What to repaint in `count` images, (B, 1, height, width) float32: 1 inside, 0 outside, never empty.

    `box` is the share of rows whose region is a box. All draws come from `generator` (on the CPU).
    """
    rows: list[npt.NDArray[np.bool_]] = []
    while len(rows) < count:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        region = _region(np.random.default_rng(seed), height, width, box)
        if region.any():
            rows.append(region)
    return torch.from_numpy(np.stack(rows))[:, None].float()


def _region(draws: np.random.Generator, height: int, width: int, box: float) -> npt.NDArray[np.bool_]:
    if draws.random() < box:
        return _box(draws, height, width)
    region = np.zeros((height, width), dtype=bool)
    parts = draws.integers(1, 4)
    if parts & 1:
        region |= _filled(_blob(draws, height, width), height, width)
    if parts & 2:
        region |= ~_filled(_inside_of_frame(draws, height, width), height, width)
    return region


def _box(draws: np.random.Generator, height: int, width: int) -> npt.NDArray[np.bool_]:
    sides = draws.uniform(0.1, 0.6, size=2)
    tall, wide = max(1, round(height * sides[0])), max(1, round(width * sides[1]))
    top, left = draws.integers(0, height - tall + 1), draws.integers(0, width - wide + 1)
    region = np.zeros((height, width), dtype=bool)
    region[top : top + tall, left : left + wide] = True
    return region


def _blob(draws: np.random.Generator, height: int, width: int) -> Points:
    """Vertices around a random centre, x + iy in pixels."""
    shortest = min(height, width)
    steps = np.arange(BLOB_POINTS) + draws.normal(0, BLOB_VARIATION, BLOB_POINTS)
    radii = draws.uniform(*BLOB_RADII) / 2 * BLOB_SCALE * (1 + draws.normal(0, BLOB_VARIATION, BLOB_POINTS))
    radii = np.clip(radii, *BLOB_RADII) * shortest
    centre = draws.uniform(0, width) + 1j * draws.uniform(0, height)
    return _smooth(centre + radii * np.exp(2j * math.pi * steps / BLOB_POINTS))


def _inside_of_frame(draws: np.random.Generator, height: int, width: int) -> Points:
    """Vertices of what a frame leaves free."""
    shape = "square" if draws.random() < 0.5 else "circle"
    count = int(draws.choice(FRAME_POINTS))
    free = 1 - 2 * draws.uniform(*FRAME_SIDES[shape])
    around = np.exp(2j * math.pi * np.arange(count) / count)
    if shape == "square":
        around = around / np.maximum(np.abs(around.real), np.abs(around.imag))
    wave = 1 + draws.normal(0, draws.uniform(0, FRAME_VARIATION) / 2, count)
    inside = around * free * wave
    points: Points = (width - 1) / 2 * (1 + inside.real) + 1j * (height - 1) / 2 * (1 + inside.imag)
    return _smooth(points)


def _smooth(points: Points) -> Points:
    """The closed curve of lowest frequencies through the points."""
    count = len(points)
    found = np.fft.fft(points)
    spread = np.zeros(count * SMOOTHING, dtype=complex)
    spread[: count // 2], spread[-(count // 2) :] = found[: count // 2], found[count // 2 :]
    curve: Points = np.fft.ifft(spread) * SMOOTHING
    return curve


def _filled(outline: Points, height: int, width: int) -> npt.NDArray[np.bool_]:
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon([(float(p.real), float(p.imag)) for p in outline], fill=1)
    return np.asarray(image, dtype=bool)
