"""A dozen drawn images with captions and the smallest networks that have every part, for whole runs in
seconds.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.events import result_of
from kandinsky.training.methods import METHODS
from kandinsky.training.task import StepContext, Task

CPU = torch.device("cpu")

WORDS = {"red": "красный", "green": "зелёный", "blue": "синий", "yellow": "жёлтый"}


def draw_images(folder: Path) -> Path:
    folder.mkdir()
    for number, (colour, word) in enumerate(WORDS.items()):
        for shape in ("circle", "square", "bar"):
            image = Image.new("RGBA", (32, 32))
            pen = ImageDraw.Draw(image)
            box = {"circle": (4, 4, 28, 28), "square": (6, 6, 26, 26), "bar": (2, 12, 30, 20)}[shape]
            (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
            name = f"{number}-{shape}"
            image.save(folder / f"{name}.png")
            caption = f"{colour} {shape}" if shape != "bar" else f"{word} {shape}"
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder


NETWORKS: dict[str, dict[str, Any]] = {
    "movq": {"channels": [32, 32], "layers": 1, "codebook_size": 32},
    "clip_text": {
        "vocab_size": 600,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "mlp_width": 32,
        "positions": 12,
        "projection": 16,
        "activation": "gelu",
        "eos_id": None,
        "pool": "argmax",
    },
    "clip_vision": {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "mlp_width": 32,
        "image_size": 16,
        "patch": 8,
        "projection": 16,
        "activation": "gelu",
    },
    "prior": {"heads": 2, "head_dim": 8, "layers": 1, "embedding_dim": 16, "text_width": 16, "tokens": 12},
    "decoder": {
        "channels": [16, 32],
        "layers": 1,
        "head_dim": 16,
        "context_dim": 16,
        "groups": 8,
        "image_dim": 16,
        "image_tokens": 32,
    },
}


def small_config(root: Path, **changes: Any) -> dict[str, Any]:
    """All four stages, three steps each, at 16 pixels."""
    stage = {"batch": 4, "max_steps": 3, "save_every": 2, "sample_every": 3, "log_every": 1}
    return {
        "out": str(root / "run"),
        "data": {"folder": str(root / "images"), "size": 16, "held_out": 3},
        "threads": 1,
        "device": "cpu",
        "networks": NETWORKS,
        "stage": [
            {**stage, "method": "movq", "objective": {"adversarial": 0.1, "adversarial_from": 1}},
            {**stage, "method": "clip"},
            {**stage, "method": "prior", "variants": 2},
            {**stage, "method": "decoder", "variants": 2},
        ],
    } | changes


def build(config: dict[str, Any], name: str) -> tuple[TrainContext, Task]:
    read = read_config(config)
    ctx = TrainContext(read, CPU)
    stage = next(stage for stage in read.stage if stage.name == name)
    torch.manual_seed(0)
    return ctx, result_of(METHODS[stage.method](ctx, stage))


def step_context(batch: Any, seed: int = 0) -> StepContext:
    return StepContext(batch, 0, CPU, torch.Generator().manual_seed(seed), {})
