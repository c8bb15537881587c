"""DreamBooth with and without images of the class beside the subject's: what becomes of the class.

    python examples/keep_the_class.py --out toys             ten minutes on a processor
    python examples/keep_the_class.py --out toys --steps 2   a look at what it does

The embedded checkpoint learns the toy of `learn_a_word.py` as "a zwx toy", twice. The table shows of the
checkpoint as it was and of both results how different images of "a toy" are from each other (mean over
pairs of 1 - the cosine of image embeddings, by the checkpoint's own CLIP), how near they came to the toy, and
how near images of "a zwx toy" are (cosine). `sheet.png` has the toy, and "a toy" and "a zwx toy" of each.
"""

import argparse
from pathlib import Path

import torch
from common import embeddings, learn, on_white, write_sheet, write_toys
from PIL import Image

import kandinsky
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint

SUBJECT, CLASS = "a zwx toy", "a toy"
SHOWN, OF_THE_SUBJECT = 8, 8
FIRST_SEED = 1000
"""Beyond those of the images of the class that are learned from."""


def spread(found: torch.Tensor) -> float:
    """The mean distance 1 - cosine over all pairs of embeddings (N, D) of length 1."""
    count = len(found)
    return float(1 - ((found @ found.T).sum() - count) / (count * (count - 1)))


def measure(
    out: Path, steps: int | None = None, draw_steps: int = 25, count: int = 32
) -> dict[str, tuple[float, float, float]]:
    """Learns the toy twice; returns the class's spread, its nearness and the subject's, by name."""
    toys = write_toys(out / "images")
    names = {"as it was": None, "with the class": 64, "without": 0}
    files: dict[str, Path | None] = {}
    for name, images in names.items():
        if images is None:
            files[name] = None
            continue
        few = {} if steps is None else {"class_steps": 1}
        objective = {"prompt": SUBJECT, "class_prompt": CLASS, "class_images": min(images, count), **few}
        run = out / name.replace(" ", "-")
        changes = {"out": str(run), "data": {"folder": str(out / "images")}, "objective": objective}
        files[name] = learn("dreambooth", changes, steps)
    found, rows = {}, []
    for name, file in files.items():
        pipe = kandinsky.load(device="cpu")
        base = BaseCheckpoint(pipe)
        side = int(pipe.model.defaults["width"])
        shown = [on_white(image, side) for image in toys]
        wanted = embeddings(base, shown)
        if file is not None:
            pipe.load_lora(file)

        def draw(prompt: str, many: int, pipe: kandinsky.Pipeline = pipe) -> list[Image.Image]:
            told = {"seed": FIRST_SEED, "steps": draw_steps, "prior_steps": draw_steps}
            return pipe.generate(prompt, count=many, **told).images

        of_class, of_subject = draw(CLASS, count), draw(SUBJECT, min(count, OF_THE_SUBJECT))
        seen = embeddings(base, of_class)
        near = [float((embedded @ wanted.T).mean()) for embedded in (seen, embeddings(base, of_subject))]
        found[name] = (spread(seen), near[0], near[1])
        rows += [of_class[:SHOWN], of_subject[:SHOWN]]
    write_sheet(out / "sheet.png", [shown, *rows], side)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toys"), help="a new folder")
    parser.add_argument("--steps", type=int, help="of training; the recipe's when not given")
    parser.add_argument("--draw-steps", type=int, default=25, help="of each image that is measured")
    parser.add_argument("--count", type=int, default=32, help="of images of the class")
    given = parser.parse_args()
    print("class differs  class near  subject near")
    for name, values in measure(given.out, given.steps, given.draw_steps, given.count).items():
        print("{:13.3f}  {:10.3f}  {:12.3f}".format(*values), f" {name}")


if __name__ == "__main__":
    main()
