"""Several images as one: sheets with labels, and the HTML that notebooks show."""

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from kandinsky.core.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font: TypeAlias = FreeTypeFont | ImageFont

GAP = 4
"""Pixels between images."""
SHOWN_SIDE = 192
"""Pixels: a smaller image is enlarged in a notebook by a whole number."""
PAPER, INK = "white", "black"
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "msyh.ttc")
"""Fonts with more letters than the Latin ones of Pillow's own, looked for where a label has such."""


def sheet(
    images: "Sequence[Image]",
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> "Image":
    """Images in rows of `columns`, each in a cell of the largest one's size on white.

    `labels` stand below images; `rows` to the left of each row, `heads` above each column. Small cells are enlarged, by
    a whole number, where there is text to read. Raises OutputError without images, and for columns below 1.
    """
    from PIL import Image, ImageDraw

    if not images:
        raise OutputError("There are no images to put on a sheet.", "Draw some first.")
    if columns < 1:
        raise OutputError(f"A sheet of {columns} columns cannot be.", "Use 1 or more.")
    words = [*(labels or ()), *rows, *heads]
    zoom = -(-SHOWN_SIDE // max(max(image.size) for image in images)) if words else 1
    images = [image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST) for image in images]
    wide, high = max(image.width for image in images), max(image.height for image in images)
    font = _font("".join(words), max(11, min(wide // 16, 28)))
    wrapped = [_wrapped(label, font, wide) for label in labels or ()]
    line = round(font.getbbox("Ag")[3] * 1.25)
    below = max((len(lines) for lines in wrapped), default=0) * line
    left = max((round(font.getlength(text)) for text in rows), default=-GAP) + 2 * GAP if rows else GAP
    top = line + 2 * GAP if heads else GAP
    lines_of_images = -(-len(images) // columns)
    size = (left + columns * (wide + GAP), top + lines_of_images * (high + below + GAP))
    made = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(made)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = left + column * (wide + GAP), top + row * (high + below + GAP)
        made.paste(image, (x + (wide - image.width) // 2, y + (high - image.height) // 2))
        for number, text in enumerate(wrapped[index] if wrapped else ()):
            draw.text((x, y + high + number * line), text, INK, font)
    for row, text in enumerate(rows):
        draw.text((GAP, top + row * (high + below + GAP) + high // 2 - line // 2), text, INK, font)
    for column, text in enumerate(heads):
        draw.text((left + column * (wide + GAP), GAP), text, INK, font)
    return made


def _font(text: str, size: int) -> "Font":
    """Pillow's own font, or for letters that it lacks the first of `FONTS` that the system has."""
    from PIL import ImageFont

    if max(map(ord, text), default=0) > 0x24F:
        for name in reversed(FONTS) if max(map(ord, text)) > 0x2E80 else FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrapped(text: str, font: "Font", width: int, most: int = 3) -> list[str]:
    """A text in lines of at most `width` pixels, cut after `most` lines."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    fitting = [_cut(line, font, width) for line in lines[:most]]
    if len(lines) > most:
        fitting[-1] = _cut(f"{fitting[-1]} ...", font, width)
    return fitting


def _cut(line: str, font: "Font", width: int) -> str:
    while len(line) > 1 and font.getlength(line) > width:
        line = line.removesuffix("...").rstrip()[:-1] + "..."
    return line


def png(image: "Image") -> bytes:
    """The bytes of a PNG file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def figures(images: "Sequence[Image]", labels: Sequence[str], notes: Sequence[str] = ()) -> str:
    """HTML of images side by side with their labels, and notes below; small images are enlarged without blur."""
    shown = []
    for image, label in zip(images, labels, strict=True):
        data = base64.b64encode(png(image)).decode()
        width = image.width * max(1, SHOWN_SIDE // max(image.size))
        shown.append(
            f'<figure style="margin:4px;width:{width}px"><img alt="{html.escape(label)}" width="{width}" '
            f'style="image-rendering:pixelated" src="data:image/png;base64,{data}"/>'
            f'<figcaption style="font-size:small">{html.escape(label)}</figcaption></figure>'
        )
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(shown)}</div>{said}'
