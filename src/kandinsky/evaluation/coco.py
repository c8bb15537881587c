"""The zero-shot protocol on COCO: which captions, which real images, and what others published."""

import hashlib
import json
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kandinsky.core.errors import DataError
from kandinsky.core.untrusted_text import parse_json, read_bytes
from kandinsky.evaluation.image_files import ImageFile

Rule: TypeAlias = Literal["all", "matched"]
CAPTIONS = 30_000
LARGEST = 2**30
"""Bytes of a file of captions; the largest one published has 91 million."""
SIDE = 256
"""Both sets are cut to centred squares of that many pixels (Ramesh 2021; GLIDE, unCLIP and Imagen do the same)."""


@dataclass(frozen=True)
class Caption:
    """One annotation of COCO: its id, its text, and the file of its image."""

    id: int
    text: str
    file: str


@dataclass(frozen=True)
class Sample:
    """The captions of a run, in the order they are drawn in, and the `digest` that names them."""

    captions: tuple[Caption, ...]
    digest: str


def read_captions(path: str | Path) -> list[Caption]:
    """The captions of a file such as captions_val2014.json, in the order of their ids.

    Raises DataError that names what the file lacks.
    """
    try:
        data: Any = parse_json(read_bytes(Path(path), LARGEST), finite=True, largest=LARGEST)
        files = {int(one["id"]): str(one["file_name"]) for one in data["images"]}
        found = [
            Caption(int(one["id"]), " ".join(str(one["caption"]).split()), files[int(one["image_id"])])
            for one in data["annotations"]
        ]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).", "Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of COCO captions ({error!r}).", "Give captions_val2014.json.") from error
    found = sorted((one for one in found if one.text), key=lambda one: one.id)
    if len({one.id for one in found}) < len(found):
        raise DataError(f"{path} has two captions of one id.", "Give captions_val2014.json as it was published.")
    if not found:
        raise DataError(f"{path} holds no caption.", "Give captions_val2014.json.")
    return found


def sample(captions: list[Caption], count: int = CAPTIONS, seed: int = 0) -> Sample:
    """`count` captions, drawn without replacement by `random.Random(seed)` from those in the order of ids.

    The digest is the first 16 digits of the sha256 of the lines "ID<tab>CAPTION". Raises DataError where
    there are fewer.
    """
    if count > len(captions):
        raise DataError(f"{len(captions)} captions are fewer than {count}.", f"Give --limit {len(captions)}.")
    chosen = tuple(random.Random(seed).sample(captions, count))
    lines = "".join(f"{one.id}\t{one.text}\n" for one in chosen)
    return Sample(chosen, hashlib.sha256(lines.encode()).hexdigest()[:16])


def real_images(folder: str | Path, captions: list[Caption], chosen: Sample, rule: Rule) -> list[ImageFile]:
    """The real images to compare with, in the order of their names.

    "all": every image that has a caption, whatever was drawn. "matched": those of the captions drawn, each
    once. Raises DataError that names an image that is not in the folder.
    """
    names = sorted({one.file for one in (captions if rule == "all" else chosen.captions)})
    root = Path(folder)
    found = [ImageFile(root / name) for name in names]
    missing = next((one for one in found if not one.path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing.path} is not there.", f"{root} should hold the {len(found)} images of the captions.")
    return found


def published() -> dict[str, float]:
    """FID on COCO-30k, zero-shot, as model cards list it, by model."""
    data = json.loads(files("kandinsky.evaluation").joinpath("coco30k.json").read_text("utf-8"))
    found: dict[str, float] = data["fid"]
    return found


def table(fid: float, name: str) -> list[tuple[str, float, bool]]:
    """The published numbers and this one, best first; the flag says which is this one."""
    rows = [(one, value, False) for one, value in published().items()]
    return sorted([*rows, (name, fid, True)], key=lambda row: row[1])
