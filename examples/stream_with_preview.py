"""Follows an image while it is made: `python examples/stream_with_preview.py "a fox" -o fox.png`.

Previews go to preview.png every few steps; the decoder of the latents is not run for them.
"""

import argparse
from pathlib import Path

import kandinsky


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw an image and show how it comes about.")
    parser.add_argument("prompt", nargs="?", default="a fox")
    parser.add_argument("-o", "--output", type=Path, default=Path("fox.png"))
    parser.add_argument("--every", type=int, default=5, help="decoder steps between two previews")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="the checkpoint's own number if not given")
    options = parser.parse_args()

    pipe = kandinsky.load()
    for event in pipe.stream(options.prompt, seed=options.seed, steps=options.steps):
        match event:
            case kandinsky.Encoding(stage=stage):
                print(f"encoding {stage}")
            case kandinsky.Denoising(stage=stage, step=step, total=total, preview=preview):
                print(f"{stage} {step}/{total}")
                if preview is not None and step % options.every == 0:
                    preview()[0].save("preview.png")
            case kandinsky.Warned(message=message):
                print(f"note: {message}")
            case kandinsky.Finished(result=result):
                print(*result.save(options.output))


if __name__ == "__main__":
    main()
