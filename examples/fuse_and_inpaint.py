"""Fuses an image with a text, then repaints the upper half: `python examples/fuse_and_inpaint.py`.

Writes cat.png, fused.png and hat.png into the working folder.
"""

import argparse

from PIL import Image

import kandinsky


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuse an image with a text, and repaint a part of it.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None, help="the checkpoint's own number if not given")
    options = parser.parse_args()

    pipe = kandinsky.load()
    drawn = pipe.generate("a cat", seed=options.seed, steps=options.steps)
    (cat,) = drawn.images
    drawn.save("cat.png")

    # A mix lives in the space of image embeddings, so images and texts can be parts of it alike.
    fused = pipe.generate(kandinsky.mix([cat, "a pizza"], weights=[0.5, 0.5]), seed=options.seed, steps=options.steps)
    fused.save("fused.png")

    # White is repainted, black is kept.
    mask = Image.new("L", cat.size, "black")
    mask.paste("white", (0, 0, cat.width, cat.height // 2))
    hat = pipe.generate("a top hat", image=cat, mask=mask, seed=options.seed, steps=options.steps)
    hat.save("hat.png")
    print("cat.png fused.png hat.png")


if __name__ == "__main__":
    main()
