"""A style from a few dozen images: adapters (LoRA) of prior and decoder, and how often it comes out.

    python recipes/emoji/build.py emoji
    python examples/learn_a_style.py --data emoji --out style             minutes on a processor
    python examples/learn_a_style.py --data emoji --out style --steps 2   a look at what it does

The style is a print in two inks, blue on cream, which the embedded checkpoint never saw. Learned from are
such prints of images that were held out of its training (`split` "test"), with captions that say nothing of
it. Measured are prompts of other things that do not name it either: how much of their images is in these
inks, as the share of pixels no further than 32 of 255 levels from a colour between the two. `sheet.png` has
some of the prints learned from, then the prompts before and after.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import SIDE, learn, on_white, write_sheet
from PIL import Image, ImageColor, ImageOps

import kandinsky

GROUPS = ("animals and nature", "food and drink", "travel and places", "activities", "objects", "smileys")
LEARNED = 40
"""Prints that are learned from."""
INK, PAPER = "#16307a", "#f7ead0"
LEVELS = 32.0
SHOWN = 8


@dataclass(frozen=True)
class Held:
    """An image that was held out of training."""

    file: Path
    style: str
    label: str


def held_out(data: Path) -> list[Held]:
    """The images of an emoji data set that are marked for testing, of things that can be imaged."""
    concepts = json.loads((data / "concepts.json").read_text(encoding="utf-8"))
    rows = (json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        Held(data / row["file_name"], row["style"], concepts[row["codepoints"]]["captions"]["en"]["label"])
        for row in rows
        if row["split"] == "test" and concepts[row["codepoints"]]["group"] in GROUPS
    ]


def printed(image: Image.Image) -> Image.Image:
    """An image in two inks: its shades from ink to paper."""
    return ImageOps.colorize(ImageOps.autocontrast(image.convert("L")), INK, PAPER)


def inked(images: Sequence[Image.Image]) -> float:
    """The share of all pixels that are at most `LEVELS` from a colour on the line from ink to paper."""
    ink, paper = (np.array(ImageColor.getrgb(colour), float) for colour in (INK, PAPER))
    pixels = np.concatenate([np.asarray(image.convert("RGB"), float).reshape(-1, 3) for image in images])
    along = ((pixels - ink) @ (paper - ink) / ((paper - ink) @ (paper - ink))).clip(0, 1)
    nearest = ink + along[:, None] * (paper - ink)
    return float((np.linalg.norm(pixels - nearest, axis=1) <= LEVELS).mean())


def measure(data: Path, out: Path, steps: int | None = None, draw_steps: int = 25, count: int = 40) -> dict[str, float]:
    """Learns the style; returns how much is in its inks, of prints and of drawings before and after."""
    held = held_out(data)
    labels = sorted({one.label for one in held})
    if len(labels) < 2:
        raise SystemExit(f"{data} holds images of {len(labels)} things that were held out, two are needed.")
    # Every other thing is learned from, the rest is measured on.
    learned = [one for one in held if one.label in labels[::2]]
    learned = learned[:: max(1, len(learned) // LEARNED)][:LEARNED]
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(learned):
        printed(on_white(Image.open(one.file), SIDE)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(one.label, encoding="utf-8")
    changes = {"out": str(out / "run"), "data": {"folder": str(folder)}, "objective": {"target": "both"}}
    file = learn("lora", changes, steps)
    pipe = kandinsky.load(device="cpu")
    side = int(pipe.model.defaults["width"])
    others = labels[1::2]
    prompts = others[:: max(1, len(others) // count)][:count]

    def draw() -> list[Image.Image]:
        images: list[Image.Image] = []
        for number, prompt in enumerate(prompts):
            result = pipe.generate(prompt, seed=number, steps=draw_steps, prior_steps=draw_steps)
            images += result.images
        return images

    before = draw()
    name = pipe.load_lora(file)
    after = draw()
    pipe.unload_lora(name)
    prints = [on_white(Image.open(folder / f"{number}.png"), side) for number in range(len(learned))]
    write_sheet(out / "sheet.png", [prints[:SHOWN], before[:SHOWN], after[:SHOWN]], side)
    return {"the prints themselves": inked(prints), "before": inked(before), "after": inked(after)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an emoji data set, see recipes/emoji")
    parser.add_argument("--out", type=Path, default=Path("style"), help="a new folder")
    parser.add_argument("--steps", type=int, help="of training; the recipe's when not given")
    parser.add_argument("--draw-steps", type=int, default=25, help="of each image that is measured")
    parser.add_argument("--count", type=int, default=40, help="of prompts")
    given = parser.parse_args()
    found = measure(given.data, given.out, given.steps, given.draw_steps, given.count)
    for name, share in found.items():
        print(f"{share:5.0%}  {name}")


if __name__ == "__main__":
    main()
