"""Teaches the embedded checkpoint a word for a toy that it never saw, and measures what came of it.

    python examples/learn_a_word.py --out toy             minutes on a processor
    python examples/learn_a_word.py --out toy --steps 2   a look at what it does

Written are the four pictures that are learned from, the word's file, and `sheet.png`: the pictures, and below
them what is drawn for "a toy" and for the word. The table shows how near pictures of each prompt are to the
toy: the cosine of image embeddings by the checkpoint's own CLIP, the mean over pairs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import kandinsky
from kandinsky.training import run_config
from kandinsky.training.events import Exported
from kandinsky.training.stages.base import Base

WORD, BEGINNING = "zwx", "alien"
BASELINES = ("a toy", "a robot", "an alien", "a purple robot", "a purple and orange toy", "a lamp")
VIEWS = ((0, 1.0), (12, 0.9), (-10, 0.95), (4, 0.8))
COUNT = 4
SIDE = 256


def toy(angle: float, scale: float) -> Image.Image:
    """The toy, turned by degrees and shrunk: a purple head with one eye on an orange body."""
    picture = Image.new("RGBA", (SIDE, SIDE))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((116, 20, 140, 60), fill="#444444")
    pen.ellipse((112, 6, 144, 38), fill="#ff3030")
    pen.rounded_rectangle((56, 52, 200, 164), 24, fill="#8a2be2", outline="#3a0a6a", width=6)
    pen.ellipse((92, 72, 164, 144), fill="white", outline="#222222", width=5)
    pen.ellipse((116, 96, 140, 120), fill="#111111")
    pen.rounded_rectangle((76, 164, 180, 220), 12, fill="#ffb000", outline="#7a5000", width=6)
    for left in (84, 144):
        pen.rectangle((left, 220, left + 28, 250), fill="#444444")
    side = round(SIDE * scale)
    small = picture.rotate(angle, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)
    frame = Image.new("RGBA", (SIDE, SIDE))
    frame.paste(small, ((SIDE - side) // 2, (SIDE - side) // 2))
    return frame


def on_white(picture: Image.Image, side: int) -> Image.Image:
    """A transparent picture on white, at another size."""
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def embeddings(base: Base, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Image embeddings (N, D) of length 1."""
    pixels = np.stack([np.array(picture) for picture in pictures])
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.normalize(base.encode(values)["embeddings"], dim=1)


def learn(folder: Path, out: Path, steps: int | None) -> Path:
    """Learns the word by the recipe that comes with the package; returns its file."""
    from kandinsky.cli.train import recipes

    changes = {
        "out": str(out / "run"),
        "data": {"folder": str(folder)},
        "objective": {"token": WORD, "init_from": BEGINNING},
        "device": "cpu",
        **({} if steps is None else {"max_steps": steps}),
    }
    for event in run_config(recipes()["textual_inversion"], overrides=changes):
        if isinstance(event, Exported):
            return event.path
    raise RuntimeError("the run was stopped")


def measure(out: Path, steps: int | None = None, draw_steps: int = 25) -> dict[str, float]:
    """Learns the word and returns how near pictures of each prompt are to the toy; writes the sheet."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    toys = [toy(angle, scale) for angle, scale in VIEWS]
    for number, picture in enumerate(toys):
        picture.save(folder / f"{number}.png")
    file = learn(folder, out, steps)
    pipe = kandinsky.load(device="cpu")
    pipe.load_words(file)
    base = Base(pipe)
    side = int(pipe.model.defaults["width"])
    shown = [on_white(picture, side) for picture in toys]
    wanted = embeddings(base, shown)
    found, rows = {"the pictures themselves": float((wanted @ wanted.T).mean())}, [shown]
    for prompt in (*BASELINES, f"a {WORD}"):
        result = pipe.generate(prompt, seed=0, count=COUNT, steps=draw_steps, prior_steps=draw_steps)
        drawn = result.images
        found[prompt] = float((embeddings(base, drawn) @ wanted.T).mean())
        if prompt in (BASELINES[0], f"a {WORD}"):
            rows.append(drawn)
    sheet = Image.new("RGB", (side * COUNT, side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (side * x, side * y))
    sheet.save(out / "sheet.png")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toy"), help="a new folder")
    parser.add_argument("--steps", type=int, help="of training; the recipe's when not given")
    parser.add_argument("--draw-steps", type=int, default=25, help="of each picture that is measured")
    given = parser.parse_args()
    for prompt, nearness in measure(given.out, given.steps, given.draw_steps).items():
        print(f"{nearness:6.3f}  {prompt}")


if __name__ == "__main__":
    main()
