"""Draws the images of the README and of docs/ with the embedded checkpoint.

    python examples/make_examples.py                    all sheets, into examples/images
    python examples/make_examples.py --only apple mix   some of them

Seeds are not picked: every sheet shows consecutive ones from --seed on, and equal seeds give equal files. The prompts
of the sheet `things` are chosen: what the checkpoint draws well. The list of sheets, with what was asked for each, goes
to README.md beside them.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import kandinsky
from kandinsky.core.files import write_atomically

IMAGES = Path(__file__).resolve().parent / "images"
GAP = 4

THINGS = (
    "a smiling face",
    "a red heart",
    "a tree",
    "an alien",
    "a bell",
    "a hammer",
    "a green book",
    "a burger",
    "a fox",
    "a blue car",
    "a watermelon",
    "a rose",
    "a panda",
    "a strawberry",
    "an umbrella",
    "a lion",
)
"""One image each, in this order: things that were chosen because this checkpoint draws them well."""


@dataclass(frozen=True)
class Studio:
    """A loaded checkpoint with the settings of this run."""

    pipe: kandinsky.Pipeline
    seed: int
    steps: int | None
    columns: int

    def draw(self, prompt: Any, taken: int = 0, **fields: Any) -> list[Image.Image]:
        """Images of consecutive seeds for a row of which `taken` columns are taken."""
        count = self.columns - taken
        wanted = {"seed": self.seed, "count": count, "steps": self.steps, **fields}
        return self.pipe.generate(prompt, **wanted).images

    def one(self, prompt: Any, **fields: Any) -> Image.Image:
        """The image of the first seed."""
        return self.draw(prompt, self.columns - 1, **fields)[0]

    @property
    def size(self) -> int:
        """The side of the checkpoint's images in pixels."""
        return int(self.pipe.model.defaults["width"])


Rows = list[list[Image.Image]]


@dataclass(frozen=True)
class Sheet:
    """One PNG: its name, what its rows show (Markdown), and how they are drawn."""

    name: str
    rows: tuple[str, ...]
    draw: Callable[[Studio], Rows]

    @property
    def file(self) -> str:
        """The name of the image file."""
        return f"{self.name}.png"


def prompts(name: str, texts: Sequence[str]) -> Sheet:
    """A sheet of one prompt a row."""
    return Sheet(name, tuple(f"“{text}”" for text in texts), lambda studio: [studio.draw(text) for text in texts])


def things(studio: Studio) -> Rows:
    images = [twice(image) for image in studio.draw(list(THINGS), studio.columns - 1, seed=[studio.seed] * len(THINGS))]
    return [images[k : k + studio.columns] for k in range(0, len(images), studio.columns)]


def twice(image: Image.Image) -> Image.Image:
    """An image with twice the sides."""
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS)


def blend(studio: Studio) -> Rows:
    """From one thing to another, in even steps of the weight."""
    rows = []
    for first, second in (("a cat", "a pizza"), ("a fox", "a flower")):
        shares = [column / (studio.columns - 1) for column in range(studio.columns)]
        parts = [kandinsky.mix([first, second], weights=[1 - share, share]) for share in shares]
        rows.append([studio.one(part) for part in parts])
    return rows


def sketch(size: int) -> Image.Image:
    """A disc with a stem, in flat colours, as somebody might draw in a minute."""
    large = Image.new("RGB", (4 * size, 4 * size), "white")
    pen = ImageDraw.Draw(large)
    pen.ellipse([size * k // 100 for k in (70, 110, 330, 350)], fill="#d92f2c")
    pen.rectangle([size * k // 100 for k in (190, 50, 210, 130)], fill="#6b4a2f")
    pen.ellipse([size * k // 100 for k in (210, 50, 290, 100)], fill="#4aa84e")
    return large.resize((size, size), Image.Resampling.LANCZOS)


def changed(studio: Studio) -> Rows:
    begin = sketch(studio.size)
    strengths = (0.3, 0.5, 0.7)
    return [[begin, *studio.draw("a red apple", 1, image=begin, strength=s)] for s in strengths]


def repainted(studio: Studio) -> Rows:
    begin = studio.one("a cat")
    mask = Image.new("L", begin.size, "black")
    mask.paste("white", (0, 0, begin.width, begin.height * 2 // 5))
    return [[begin, mask.convert("RGB"), *studio.draw("a top hat", 2, image=begin, mask=mask)]]


def varied(studio: Studio) -> Rows:
    rows = []
    for thing in ("a fox", "a flower"):
        begin = studio.one(thing)
        rows.append([begin, *studio.draw(begin, 1)])
    return rows


SHEETS: tuple[Sheet, ...] = (
    Sheet("things", (", ".join(THINGS),), things),
    prompts("apple", ["a red apple", "a green apple"]),
    prompts("languages", ["a red apple", "красное яблоко", "ein roter Apfel", "红苹果"]),
    prompts("fox", ["a fox", "лиса", "ein Fuchs", "狐狸"]),
    prompts("styles", ["a cat, 3D", "a cat, gradient", "a cat, flat", "a cat, noto", "a cat, blob"]),
    prompts("backgrounds", ["a star on a blue background", "a star on a pink background", "звезда на зелёном фоне"]),
    Sheet("mix", ("from “a cat” to “a pizza”", "from “a fox” to “a flower”"), blend),
    Sheet(
        "image-to-image",
        tuple(f"a sketch, then “a red apple” from it at strength {s}" for s in (0.3, 0.5, 0.7)),
        changed,
    ),
    Sheet("inpainting", ("a cat, the mask (white is repainted), then “a top hat” there",), repainted),
    Sheet("variation", ("“a fox”, then variations of that image", "“a flower”, then variations of it"), varied),
)


def sheet_of(rows: Rows) -> Image.Image:
    """Images of one size as a white sheet with small gaps."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (GAP + (width + GAP) * max(map(len, rows)), GAP + (height + GAP) * len(rows)), "white")
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            sheet.paste(image, (GAP + (width + GAP) * across, GAP + (height + GAP) * down))
    return sheet


def as_png(image: Image.Image) -> bytes:
    """A PNG without metadata, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def page(seed: int, steps: int | None) -> str:
    """The list of sheets as Markdown."""
    parts = [
        "# Images\n",
        "Drawn by `python examples/make_examples.py` with the embedded checkpoint, "
        f"{f'{steps} steps' if steps else 'its default steps'}, seeds from {seed} on, not picked by hand. "
        "The prompts of the first sheet are chosen: things that the checkpoint draws well.\n",
    ]
    for sheet in SHEETS:
        shown = "\n".join(f"{number}. {row}" for number, row in enumerate(sheet.rows, start=1))
        parts.append(f"## {sheet.name}\n\n![{sheet.name}]({sheet.file})\n\n{shown}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the images of the README and of docs/.")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--model", default=None, help="a folder or hub id; the embedded one if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=8, help="images in a row, at least 3")
    parser.add_argument("--steps", type=int, default=None, help="the checkpoint's own number if not given")
    parser.add_argument("--only", nargs="+", choices=[sheet.name for sheet in SHEETS], default=None)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(kandinsky.load(options.model), options.seed, options.steps, options.columns)
    for sheet in SHEETS:
        if options.only is None or sheet.name in options.only:
            path = write_atomically(options.out / sheet.file, as_png(sheet_of(sheet.draw(studio))))
            print(path)
    write_atomically(options.out / "README.md", page(options.seed, options.steps).encode())


if __name__ == "__main__":
    main()
