"""What the examples of fine-tuning share: a toy that no checkpoint has seen, runs, nearness, sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from kandinsky.training import run_config
from kandinsky.training.events import Exported
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint

VIEWS = ((0, 1.0), (12, 0.9), (-10, 0.95), (4, 0.8))
"""How the toy is turned, in degrees, and shrunk in each of its four images."""
SIDE = 256


def toy(angle: float, scale: float) -> Image.Image:
    """The toy, turned by degrees and shrunk: a purple head with one eye on an orange body."""
    image = Image.new("RGBA", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    pen.rectangle((116, 20, 140, 60), fill="#444444")
    pen.ellipse((112, 6, 144, 38), fill="#ff3030")
    pen.rounded_rectangle((56, 52, 200, 164), 24, fill="#8a2be2", outline="#3a0a6a", width=6)
    pen.ellipse((92, 72, 164, 144), fill="white", outline="#222222", width=5)
    pen.ellipse((116, 96, 140, 120), fill="#111111")
    pen.rounded_rectangle((76, 164, 180, 220), 12, fill="#ffb000", outline="#7a5000", width=6)
    for left in (84, 144):
        pen.rectangle((left, 220, left + 28, 250), fill="#444444")
    side = round(SIDE * scale)
    small = image.rotate(angle, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)
    frame = Image.new("RGBA", (SIDE, SIDE))
    frame.paste(small, ((SIDE - side) // 2, (SIDE - side) // 2))
    return frame


def write_toys(folder: Path) -> list[Image.Image]:
    """Writes the four images of the toy into a folder and returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    toys = [toy(angle, scale) for angle, scale in VIEWS]
    for number, image in enumerate(toys):
        image.save(folder / f"{number}.png")
    return toys


def on_white(image: Image.Image, side: int) -> Image.Image:
    """A transparent image on white, at another size."""
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def embeddings(base: BaseCheckpoint, images: Sequence[Image.Image]) -> torch.Tensor:
    """Image embeddings (N, D) of length 1, by the checkpoint's own CLIP."""
    pixels = np.stack([np.array(image) for image in images])
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.normalize(base.encode(values)["embeddings"], dim=1)


def learn(recipe: str, changes: Mapping[str, Any], steps: int | None = None) -> Path:
    """Runs a recipe that comes with the package, on the CPU; returns the file that it leaves."""
    from kandinsky.cli.train import recipes

    limit = {} if steps is None else {"max_steps": steps}
    for event in run_config(recipes()[recipe], overrides={"device": "cpu", **changes, **limit}):
        if isinstance(event, Exported):
            return event.path
    raise RuntimeError("the run was stopped")


def write_sheet(path: Path, rows: Sequence[Sequence[Image.Image]], side: int) -> Path:
    """Writes rows of images below each other as one."""
    sheet = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (side * x, side * y))
    sheet.save(path)
    return path
