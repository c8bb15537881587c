"""Teaches the embedded checkpoint a word for a toy that it never saw, and measures what came of it.

    python examples/learn_a_word.py --out toy             minutes on a processor
    python examples/learn_a_word.py --out toy --steps 2   a look at what it does

Written are the four images that are learned from, the word's file, and `sheet.png`: the images, and below
them what is drawn for "a toy" and for the word. The table shows how near images of each prompt are to the
toy: the cosine of image embeddings by the checkpoint's own CLIP, the mean over pairs.
"""

import argparse
from pathlib import Path

from common import embeddings, learn, on_white, write_sheet, write_toys

import kandinsky
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint

WORD, BEGINNING = "zwx", "alien"
BASELINES = ("a toy", "a robot", "an alien", "a purple robot", "a purple and orange toy", "a lamp")
COUNT = 4


def measure(out: Path, steps: int | None = None, draw_steps: int = 25) -> dict[str, float]:
    """Learns the word and returns how near images of each prompt are to the toy; writes the sheet."""
    toys = write_toys(out / "images")
    changes = {
        "out": str(out / "run"),
        "data": {"folder": str(out / "images")},
        "objective": {"token": WORD, "init_from": BEGINNING},
    }
    file = learn("textual_inversion", changes, steps)
    pipe = kandinsky.load(device="cpu")
    pipe.load_words(file)
    base = BaseCheckpoint(pipe)
    side = int(pipe.model.defaults["width"])
    shown = [on_white(image, side) for image in toys]
    wanted = embeddings(base, shown)
    found, rows = {"the images themselves": float((wanted @ wanted.T).mean())}, [shown]
    for prompt in (*BASELINES, f"a {WORD}"):
        result = pipe.generate(prompt, seed=0, count=COUNT, steps=draw_steps, prior_steps=draw_steps)
        drawn = result.images
        found[prompt] = float((embeddings(base, drawn) @ wanted.T).mean())
        if prompt in (BASELINES[0], f"a {WORD}"):
            rows.append(drawn)
    write_sheet(out / "sheet.png", rows, side)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toy"), help="a new folder")
    parser.add_argument("--steps", type=int, help="of training; the recipe's when not given")
    parser.add_argument("--draw-steps", type=int, default=25, help="of each image that is measured")
    given = parser.parse_args()
    for prompt, nearness in measure(given.out, given.steps, given.draw_steps).items():
        print(f"{nearness:6.3f}  {prompt}")


if __name__ == "__main__":
    main()
