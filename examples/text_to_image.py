"""An image from a text: `python examples/text_to_image.py "a red apple" -o apple.png`."""

import argparse
from pathlib import Path

import kandinsky


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw images of a text with the embedded checkpoint.")
    parser.add_argument("prompt", nargs="?", default="a red apple")
    parser.add_argument("-o", "--output", type=Path, default=Path("apple.png"))
    parser.add_argument("--seed", type=int, default=None, help="image i uses seed + i; random if not given")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None, help="the checkpoint's own number if not given")
    options = parser.parse_args()

    pipe = kandinsky.load()
    result = pipe.generate(options.prompt, seed=options.seed, count=options.count, steps=options.steps)
    for path, seed in zip(result.save(options.output), result.seeds, strict=True):
        print(f"{path}  seed {seed}")


if __name__ == "__main__":
    main()
