"""The sampler curve as a PNG: lines over logarithmic axes, drawn with Pillow alone."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, TOP = 560, 480, 60
LEFT, RIGHT, HEAD, FOOT = 64, 16, 40, 56
INK, PALE = "#1f2430", "#e3e5ea"
COLOURS = ("#7a4fb0", "#2f7d5b", "#b3503a", "#1f6fb2", "#c28a00", "#3aa6a6", "#d1478c", "#6b6b6b", "#222222", "#99b33a")
SMALLEST = 1e-4
"""Distances below are drawn there: 0 has no logarithm."""


@dataclass(frozen=True)
class Line:
    """A named line of points (x, y), both above 0."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Lines that share axes."""

    title: str
    below: str
    lines: Sequence[Line]


def plot(title: str, panels: Sequence[Panel]) -> bytes:
    """A PNG with the panels side by side, both axes logarithmic."""
    image = Image.new("RGB", (WIDTH * len(panels), TOP + HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    pen.text((16, 16), title, INK, _font(22))
    for place, panel in enumerate(panels):
        _draw(pen, panel, WIDTH * place)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """The curves as a PNG."""

    def lines(kind: str, axis: str, value: str) -> list[Line]:
        names = dict.fromkeys(row["name"] for row in rows if row["kind"] == kind)
        points = {
            name: [(row[axis], row[value]) for row in rows if row["kind"] == kind and row["name"] == name]
            for name in names
        }
        return [Line(name, found) for name, found in points.items()]

    def decoder(value: str) -> list[Line]:
        below = [line for line in lines("spacing", "calls", value) if line.name == "leading"]
        published = [Line(f"{line.name} as published", line.points) for line in lines("published", "calls", value)]
        return [
            *lines("sampler", "calls", value),
            *published,
            *(Line("dpmpp_2m, leading times", line.points) for line in below),
        ]

    panels = [Panel("Decoder, in latents", "network calls", decoder("latents"))]
    if any(row.get("features") for row in rows):
        panels.append(Panel("Decoder, in Inception features", "network calls", decoder("features")))
    panels.append(Panel("Prior, image embeddings", "network calls", lines("prior", "calls", "latents")))
    return plot("Distance from 1000 steps (1 = as far as another image)", panels)


def _draw(pen: ImageDraw.ImageDraw, panel: Panel, across: float) -> None:
    points = [(x, max(y, SMALLEST)) for line in panel.lines for x, y in line.points]
    low, high = (min(x for x, _ in points), max(x for x, _ in points))
    bottom, top = (min(y for _, y in points) / 1.3, max(y for _, y in points) * 1.3)

    def at(x: float, y: float) -> tuple[float, float]:
        right = math.log(x / low) / math.log(max(high / low, 1.01))
        up = math.log(max(y, SMALLEST) / bottom) / math.log(top / bottom)
        return (across + LEFT + right * (WIDTH - LEFT - RIGHT), TOP + HEIGHT - FOOT - up * (HEIGHT - HEAD - FOOT))

    pen.text((across + LEFT, TOP + 8), panel.title, INK, _font(17))
    for tick in _ticks(bottom, top):
        pen.line([at(low, tick), at(high, tick)], PALE)
        x, y = at(low, tick)
        pen.text((x - 8, y), f"{tick:g}", INK, _font(13), anchor="rm")
    for tick in sorted({x for x, _ in points}):
        if tick in (2, 4, 8, 15, 25, 50, 100):
            pen.line([at(tick, bottom), at(tick, top)], PALE)
            x, y = at(tick, bottom)
            pen.text((x, y + 6), f"{tick:g}", INK, _font(13), anchor="ma")
    pen.text((across + (WIDTH + LEFT) / 2, TOP + HEIGHT - 20), panel.below, INK, _font(14), anchor="ma")
    for place, line in enumerate(panel.lines):
        colour = COLOURS[place % len(COLOURS)]
        drawn = [at(x, y) for x, y in sorted(line.points)]
        pen.line(drawn, colour, 3, joint="curve")
        for x, y in drawn:
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], colour)
        named = (across + WIDTH - RIGHT - 8, TOP + HEAD + 10 + 20 * place)
        pen.text(named, line.name, colour, _font(16), anchor="ra")


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size)
