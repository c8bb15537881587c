"""Tiny data folders, made on the spot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONCEPTS: dict[str, dict[str, Any]] = {
    "1F34E": {
        "concept": "red apple",
        "group": "food and drink",
        "captions": {
            "en": {"label": "red apple", "tags": ["apple", "food", "red"]},
            "ru": {"label": "красное яблоко", "tags": ["яблоко", "еда", "1:00"]},
            "de": {"label": "roter Apfel", "tags": ["Apfel"]},
            "zh": {"label": "红苹果", "tags": ["苹果"]},
            "hi": {"label": "लाल सेब, सेवफल, लाल", "tags": ["लाल सेब, सेवफल, लाल", "सेब"]},
        },
    },
    "1F431": {
        "concept": "cat face",
        "group": "animals and nature",
        "captions": {"en": {"label": "cat face", "tags": ["cat", "food"]}, "ru": {"label": "морда кошки", "tags": []}},
    },
    "1F449": {
        "concept": "backhand index pointing right",
        "group": "people",
        "captions": {"en": {"label": "backhand index pointing right", "tags": ["hand"]}},
    },
    "1F550": {
        "concept": "one o’clock",
        "group": "travel and places",
        "captions": {"en": {"label": "one o’clock", "tags": ["clock"]}},
    },
    "0031-20E3": {
        "concept": "keycap: 1",
        "group": "symbols",
        "captions": {"en": {"label": "keycap: 1", "tags": ["keycap"]}},
    },
}


def half_image(size: int = 16, colour: tuple[int, int, int] = (200, 40, 20)) -> Image.Image:
    """Opaque on the left half, transparent on the right."""
    pixels = np.zeros((size, size, 4), dtype=np.uint8)
    pixels[:, : size // 2] = (*colour, 255)
    return Image.fromarray(pixels)


def emoji_folder(
    root: Path, styles: Sequence[str] = ("fluent-flat", "noto"), concepts: Mapping[str, Any] | None = None
) -> Path:
    """A folder with every concept in every style; the apple of the last style is held out."""
    table = concepts or CONCEPTS
    (root / "images").mkdir(parents=True)
    rows = []
    for s, style in enumerate(styles):
        for c, key in enumerate(table):
            name = f"images/{style}_{key}.png"
            half_image(colour=(10 + 40 * c, 10 + 60 * s, 90)).save(root / name)
            held = style == styles[-1] and key == "1F34E"
            rows.append({"file_name": name, "codepoints": key, "style": style, "split": "test" if held else "train"})
    (root / "concepts.json").write_text(json.dumps(table), encoding="utf-8")
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root
