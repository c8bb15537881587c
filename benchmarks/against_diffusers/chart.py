"""Results as an image: how far ahead this library is, a bar for each row."""

import io
from collections.abc import Callable
from math import log2

from PIL import Image, ImageDraw, ImageFont

from benchmarks.against_diffusers.compare import Row
from benchmarks.against_diffusers.report import seconds
from benchmarks.against_diffusers.run import Results

WIDTH, LEFT, RIGHT, LINE, TOP = 1200, 330, 330, 34, 84
INK, PALE, AHEAD, BEHIND = "#1f2430", "#d7dae0", "#2f7d5b", "#b3503a"


def draw_chart(results: Results) -> bytes:
    """A PNG with the rows that compare two sides, on a logarithmic scale with 1 (equally fast) marked."""
    rows = [row for row in results.rows if row.ratio is not None]
    image = Image.new("RGB", (WIDTH, TOP + LINE * max(len(rows), 1) + 56), "white")
    pen = ImageDraw.Draw(image)
    pen.text((20, 16), "How many times as fast as diffusers (memory-2.2: how many times less memory)", INK, _font(24))
    told = f"{results.machine['device']}, {results.machine['threads']} threads; lines span all runs"
    pen.text((20, 50), told, INK, _font(15))
    reached = [row.ratio for row in rows if row.ratio]
    low, high = min([1.0, *reached]) / 1.15, max([2.0, *reached]) * 1.15

    def x(value: float) -> float:
        part = (log2(value) - log2(low)) / (log2(high) - log2(low))
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    bottom = TOP + LINE * len(rows)
    tick = 0.25
    while tick <= high:
        if tick >= low:
            pen.line([(x(tick), TOP - 6), (x(tick), bottom)], INK if tick == 1 else PALE, 1)
            pen.text((x(tick), bottom + 8), f"{tick:g}x", INK, _font(15), anchor="ma")
        tick *= 2
    for index, row in enumerate(rows):
        _draw_row(pen, row, TOP + LINE * index, x)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_row(pen: ImageDraw.ImageDraw, row: Row, y: float, x: Callable[[float], float]) -> None:
    assert row.ratio is not None
    middle = y + LINE / 2
    pen.text((LEFT - 10, middle), f"{row.workload.name}, {row.pairing}", INK, _font(16), anchor="rm")
    ends = sorted([x(1.0), x(row.ratio)])
    pen.rectangle([ends[0], y + 7, ends[1], y + LINE - 7], AHEAD if row.ratio >= 1 else BEHIND)
    pen.line([(x(min(row.ratios)), middle), (x(max(row.ratios)), middle)], INK, 2)
    ours, peer = row.sides["ours"], row.sides["peer"]
    if row.workload.counts == "peak":
        values = f"{ours.peak / 2**30:.1f} against {peer.peak / 2**30:.1f} GiB"
    else:
        values = f"{seconds(ours.median)} against {seconds(peer.median)}"
    pen.text((WIDTH - RIGHT + 14, middle), f"{row.ratio:.2f}x   {values}", INK, _font(16), anchor="lm")


def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size)
