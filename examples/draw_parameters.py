"""Draws what each parameter of a request does, for docs/, with the embedded checkpoint.

    python examples/draw_parameters.py                  all sheets, into docs/images/parameters
    python examples/draw_parameters.py --only steps seed

Prompts are things that the checkpoint draws well. Seeds are not picked: they count up from --seed. `scripts/draw-docs`
draws these sheets and all others again, which is needed when the checkpoint changes.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_examples import sketch
from PIL import Image

import kandinsky
from kandinsky.core.sheets import sheet

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images" / "parameters"
SIDE = 192
"""Pixels of an image on a sheet; smaller ones are enlarged."""
PAIR = ("a red apple", "a house")


@dataclass(frozen=True)
class Studio:
    """A loaded checkpoint, the first seed, and the steps of a quick run; None: the checkpoint's own."""

    pipe: kandinsky.Pipeline
    seed: int
    steps: int | None

    def draw(self, prompt: Any, **fields: Any) -> list[Image.Image]:
        """The images of one request."""
        wanted = {"seed": self.seed, **({} if self.steps is None else {"steps": self.steps}), **fields}
        return self.pipe.generate(prompt, **wanted).images

    def column(self, prompts: Sequence[Any], **fields: Any) -> list[Image.Image]:
        """One image of each prompt, all with the first seed."""
        return self.draw(list(prompts), **{"seed": [self.seed] * len(prompts), **fields})


@dataclass(frozen=True)
class Drawn:
    """Columns of images with a head each, and a name for each row."""

    heads: tuple[str, ...]
    columns: list[list[Image.Image]]
    rows: tuple[str, ...] = ()
    wrapped: int | None = None
    """Where there is one row: how many stand beside each other, each with its head below it."""

    def sheet(self) -> Image.Image:
        """All of it as one image."""
        images = [column[row] for row in range(len(self.columns[0])) for column in self.columns]
        large = [enlarged(one) for one in images]
        if self.wrapped is not None:
            return sheet(large, self.wrapped, self.heads)
        return sheet(large, len(self.columns), heads=self.heads, rows=self.rows)


def enlarged(image: Image.Image) -> Image.Image:
    """An image whose longer side has at least `SIDE` pixels."""
    times = max(1.0, SIDE / max(image.size))
    return image.resize((round(image.width * times), round(image.height * times)), Image.Resampling.LANCZOS)


def over(field: str, *values: Any, prompts: Sequence[str] = PAIR, **fields: Any) -> Callable[[Studio], Drawn]:
    """A sheet with a column for each value of a field and a row for each prompt."""

    def draw(studio: Studio) -> Drawn:
        columns = [studio.column(prompts, **fields, **{field: value}) for value in values]
        return Drawn(tuple(map(str, values)), columns, tuple(prompts))

    return draw


def strengths(studio: Studio) -> Drawn:
    begin = sketch(int(studio.pipe.model.defaults["width"]))
    values = (0.2, 0.4, 0.6, 0.8, 1.0)
    prompts = ["a red apple", "a heart"]
    columns = [studio.column(prompts, image=begin, strength=value) for value in values]
    return Drawn(("image", *map(str, values)), [[begin, begin], *columns], tuple(prompts))


def seeds(studio: Studio) -> Drawn:
    count = 6
    rows = [studio.draw(prompt, count=count) for prompt in PAIR]
    heads = tuple(f"seed {studio.seed + index}" for index in range(count))
    return Drawn(heads, [list(column) for column in zip(*rows, strict=True)], PAIR)


def counts(studio: Studio) -> Drawn:
    return Drawn(tuple(f"image {index + 1}" for index in range(4)), [[one] for one in studio.draw("an alien", count=4)])


def negatives(studio: Studio) -> Drawn:
    cases = (("a heart", "purple"), ("a house", "a tree"))
    prompts = [prompt for prompt, _ in cases]
    without = studio.column(prompts)
    both = studio.column(prompts, negative_prompt=[negative for _, negative in cases])
    prior = studio.column(prompts, prior_negative_prompt=[negative for _, negative in cases])
    heads = ("without", "negative_prompt", "prior_negative_prompt")
    return Drawn(heads, [without, both, prior], tuple(f"{prompt}, not {negative}" for prompt, negative in cases))


def mixes(studio: Studio) -> Drawn:
    pairs = (("a cat", "a dog"), ("an apple", "a heart"))
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    columns = [
        studio.column([kandinsky.mix(list(pair), weights=[1 - share, share]) for pair in pairs]) for share in shares
    ]
    heads = tuple(f"{1 - share:g} : {share:g}" for share in shares)
    return Drawn(heads, columns, tuple(f"{first} : {second}" for first, second in pairs))


def adapters(studio: Studio) -> Drawn:
    """The embedded checkpoint's own adapter for few steps, against as many steps without it."""
    own = studio.column(PAIR)
    few = studio.column(PAIR, steps=4)
    name = studio.pipe.load_lora("few-step")
    try:
        adapted = studio.pipe.generate(list(PAIR), seed=[studio.seed] * len(PAIR)).images
    finally:
        studio.pipe.unload_lora(name)
    return Drawn(("20 steps", "4 steps", "4 steps, few-step"), [own, few, adapted], PAIR)


def sizes(studio: Studio) -> Drawn:
    own = int(studio.pipe.model.defaults["width"])
    shapes = ((own, own), (own * 3 // 2, own), (own, own * 3 // 2), (own * 2, own * 2), (own * 4, own * 4))
    columns = [studio.column(["a house"], width=width, height=height) for width, height in shapes]
    return Drawn(tuple(f"{width} x {height}" for width, height in shapes), columns)


def weights(studio: Studio) -> Drawn:
    values = (-1, 0, 1, 2, 3)
    columns = [
        studio.column([f"a (crying:{value}) face", f"a (pink:{value}) heart"], prompt_weights=True) for value in values
    ]
    return Drawn(tuple(f"weight {value}" for value in values), columns, ("a (crying:w) face", "a (pink:w) heart"))


def pasted(studio: Studio) -> Drawn:
    (begin,) = studio.draw("a cat")
    mask = Image.new("L", begin.size, "black")
    mask.paste("white", (0, 0, begin.width, begin.height // 2))
    fields = {"image": begin, "mask": mask}
    prompts = ["a top hat"]
    columns = [
        studio.column(prompts, **fields),
        studio.column(prompts, **fields, paste_back=True),
        studio.column(prompts, **fields, paste_back=True, mask_blur=begin.height // 8),
    ]
    heads = ("image", "mask", "drawn", "paste_back", "and mask_blur")
    return Drawn(heads, [[begin], [mask.convert("RGB")], *columns])


def outpainted(studio: Studio) -> Drawn:
    (begin,) = studio.draw("a heart on a blue background")
    margins = [begin.width * part // 8 for part in (1, 2, 3)]
    columns = [
        studio.column(["a blue background"], image=begin, outpaint={"left": margin, "right": margin}, paste_back=True)
        for margin in margins
    ]
    return Drawn(("image", *(f"left and right {margin}" for margin in margins)), [[begin], *columns])


def hints(studio: Studio) -> Drawn:
    """Hints alone: the embedded checkpoint does not follow any."""
    things = ("a house", "a tree", "an alien", "a heart")
    images = studio.column(things)
    edges = [kandinsky.edges(image, *image.size).convert("RGB") for image in images]
    return Drawn(things, [list(pair) for pair in zip(images, edges, strict=True)], ("image", "edges"))


def intervals(studio: Studio) -> Drawn:
    values: tuple[tuple[float, float] | None, ...] = (None, (0.1, 0.9), (0.2, 0.8), (0.3, 0.7))
    columns = [studio.column(PAIR, guidance_interval=value) for value in values]
    heads = tuple("everywhere" if value is None else f"{value[0]} to {value[1]}" for value in values)
    return Drawn(heads, columns, PAIR)


def samplers(studio: Studio) -> Drawn:
    columns = [studio.column(["a house"], sampler=name, steps=12) for name in SAMPLERS]
    return Drawn(SAMPLERS, columns, wrapped=5)


SAMPLERS = ("ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "plms", "unipc")
SHEETS: dict[str, Callable[[Studio], Drawn]] = {
    "steps": over("steps", 1, 2, 4, 8, 20, 50),
    "sampler": samplers,
    "guidance-scale": over("guidance_scale", 0, 1, 2, 3, 6, 12, 24),
    "prior-steps": over("prior_steps", 2, 5, 10, 25, 50),
    "prior-guidance-scale": over("prior_guidance_scale", 1, 2, 5, 10, 20),
    "eta": over("eta", 0, 0.25, 0.5, 1.0, sampler="ddim"),
    "guidance-interval": intervals,
    "reuse": over("reuse", 1, 2, 3, 5),
    "strength": strengths,
    "seed": seeds,
    "count": counts,
    "negative-prompt": negatives,
    "mix": mixes,
    "size": sizes,
    "few-step": adapters,
    "hint": hints,
    "prompt-weights": weights,
    "paste-back": pasted,
    "outpaint": outpainted,
}
"""A sheet for each parameter that changes an image."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what each parameter of a request does.")
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="the checkpoint's own number if not given")
    parser.add_argument("--only", nargs="+", choices=list(SHEETS), default=None)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(kandinsky.load(device="cpu"), options.seed, options.steps)
    for name, draw in SHEETS.items():
        if options.only is None or name in options.only:
            path = options.out / f"{name}.webp"
            draw(studio).sheet().save(path, "WEBP", quality=82, method=6)
            print(path, flush=True)


if __name__ == "__main__":
    main()
