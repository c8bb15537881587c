"""Where images go: the names the user gave, or names of prompt and seed that replace nothing."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from kandinsky.core.errors import OutputError
from kandinsky.core.events import numbered
from kandinsky.core.images import Picture
from kandinsky.core.metadata import check_image_path
from kandinsky.core.requests import Embedding, Mix, Prompt, Request

LONGEST_SLUG = 40


def slug(prompt: Prompt) -> str:
    """A short file name for a prompt: lower-case words joined by hyphens, letters of any script kept."""
    match prompt:
        case str():
            text = prompt
        case Mix(items=items):
            text = " ".join(_word(item) for item in items)
        case _:
            text = "embedding"
    # Not \w, which would drop the vowel signs of Hindi and other scripts.
    kept = [letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text.lower()]
    words = "".join(kept).split()
    name = ""
    for word in words:
        if name and len(name) + 1 + len(word) > LONGEST_SLUG:
            break
        name = f"{name}-{word}" if name else word[:LONGEST_SLUG]
    return name or "image"


def _word(item: str | Picture | Embedding) -> str:
    match item:
        case str():
            return item
        case Picture():
            return Path(item.path).stem if item.path else "image"
        case _:
            return "embedding"


def targets(output: Path | None, request: Request) -> list[Path]:
    """One path per image of a request that has a seed, each checked to be writable.

    A file name is used as it is for one image and numbered for several; a folder, or nothing (the current folder), gets
    names of prompt and seed, with a further number where that name is taken. Raises OutputError.
    """
    if output is not None and not output.is_dir():
        if not output.suffix:
            raise OutputError(
                f"{output} has no image format.", f"Name it {output.name}.png, or create that folder first."
            )
        names = [output] if request.size == 1 else [numbered(output, index) for index in range(request.size)]
    else:
        names = []
        for index, seed in enumerate(request.seeds):
            name = f"{slug(request.prompts[index // request.count])}-{seed}.png"
            names.append(_free((output or Path()) / name, names))
    return [check_image_path(name) for name in names]


def _free(path: Path, taken: Sequence[Path]) -> Path:
    candidate, number = path, 2
    while candidate in taken or candidate.exists():
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate
