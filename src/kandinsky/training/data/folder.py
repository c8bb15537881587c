"""A folder of images with captions, read into records without opening an image."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.training.data.caption import Caption, Captioner, Templates, WrittenCaptions

METADATA, TABLE = "metadata.jsonl", "metadata.csv"
FILE_COLUMNS = ("file_name", "image_name", "paths", "image_path", "path")
CAPTION_COLUMNS = ("caption", "text", "prompt")
HINT_COLUMNS = ("hint", "hint_image", "conditioning_image")
"""What tables of images call their files, captions and hints, in the order in which they are looked for."""
IMAGE_SUFFIXES = frozenset({".png", ".webp", ".jpg", ".jpeg", ".bmp", ".gif"})

Captioned = tuple[str, str, Mapping[str, object]]
"""A file under the root, its caption, and what else its row says."""


@dataclass(frozen=True)
class Record:
    """One image file: its path under the root, what it shows, style name and split (`train` or `test`).

    `hint` is the path of an image of the same proportions that goes with it, under the root too or absolute.
    It is seen `times` in an epoch.
    """

    file_name: str
    concept: int
    style: str
    split: str
    hint: str = ""
    times: int = 1


class Painter(Protocol):
    """Changes the colours of what N images show."""

    def where(self, keep: Tensor) -> "Painter":
        """The same for those images that `keep`, (N,) bool or indices, chooses."""

    def paint(
        self, layers: Tensor, rows: Tensor, single: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Layers (B, 4, S, S) of images `rows` (B,), a `share` of the `single` ones (B,) changed, and facts."""


@dataclass(frozen=True)
class Folder:
    """Records, and what says what they show; `styles` in sorted order give the style ids.

    `painter`, where a recipe has one, is made of decoded images (N, 4, S, S) and a folder for caches.
    """

    root: Path
    records: tuple[Record, ...]
    captioner: Captioner
    styles: tuple[str, ...] = ("",)
    painter: Callable[[Tensor, Path], Painter] | None = None


def read_folder(root: str | Path) -> Folder:
    """Reads one of three layouts, the first that fits; a table of the second may be given itself.

    - `metadata.jsonl` with `file_name` and `caption` (and, if wanted, `language`, `style`, `split`, `hint`);
    - `metadata.csv` with a column of files (`file_name`, `image_name` or `paths`) and one of captions
      (`caption`);
    - images with a `.txt` caption of the same name.

    Raises DataError when the folder, an image or a caption is missing, or a line is not what it should be.
    """
    path = Path(root)
    if path.suffix == ".csv" and path.is_file():
        return _captioned(path.parent, _rows_of_table(path))
    if not path.is_dir():
        raise DataError(f"There is no folder {str(path)!r}.", "Give the folder that holds the images.")
    if (path / METADATA).is_file():
        return _captioned(path, _rows_of_lines(path / METADATA))
    if (path / TABLE).is_file():
        return _captioned(path, _rows_of_table(path / TABLE))
    return _captioned(path, _rows_of_files(path))


def read_bare_folder(root: str | Path, captioner: Captioner = Templates(("",))) -> Folder:
    """Reads a folder of images that need no captions; caption files are not read.

    Raises DataError when the folder or its images are missing.
    """
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"There is no folder {str(path)!r}.", "Give the folder that holds the images.")
    return folder_of(path, [Record(_name(file, path), 0, "", "train") for file in _files(path)], captioner)


def read_lines(metadata: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The objects of a file of JSON lines that name images, each with its place for errors.

    Raises DataError for a line that is no object, and for an image that is not there.
    """
    with metadata.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{metadata.name} line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{place} is not JSON: {error}.", "Write one object a line.") from error
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise DataError(f"{place} has no file_name.", "Each line names its image.")
            _check_there(metadata, place, row["file_name"])
            yield place, row


def folder_of(root: Path, records: list[Record], captioner: Captioner) -> Folder:
    """A folder of these records; DataError when there are none."""
    if not records:
        raise DataError(
            f"The folder {str(root)!r} holds no images.", "Expected metadata.jsonl, or images with .txt captions."
        )
    return Folder(root, tuple(records), captioner, tuple(sorted({record.style for record in records})))


def _files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _check_there(table: Path, place: str, name: str) -> None:
    if not (table.parent / name).is_file():
        raise DataError(
            f"{place} names {name!r}, which is not there.", f"Paths are relative to the folder of {table.name}."
        )


def _rows_of_lines(metadata: Path) -> Iterator[Captioned]:
    hint = 'Add "caption": "what the image shows".'
    if (metadata.parent / "concepts.json").is_file():
        hint = "The folder has concepts.json: name the recipe that built it in data.recipe."
    for place, row in read_lines(metadata):
        name, caption = str(row["file_name"]), row.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{place} ({name!r}) has no caption.", hint)
        yield name, caption.strip(), row


def _rows_of_table(table: Path) -> Iterator[Captioned]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        chosen = []
        for known in (FILE_COLUMNS, CAPTION_COLUMNS):
            column = next((name for name in known if name in columns), None)
            if column is None:
                raise DataError(
                    f"{table.name} has none of the columns {', '.join(known)}.",
                    f"It has: {', '.join(columns) or 'no line'}.",
                )
            chosen.append(column)
        for row in rows:
            place = f"{table.name} line {rows.line_num}"
            name, caption = (str(row[column] or "").strip() for column in chosen)
            _check_there(table, place, name)
            if not caption:
                raise DataError(f"{place} ({name!r}) has no caption.", "Write what the image shows.")
            yield name, caption, row


def _rows_of_files(root: Path) -> Iterator[Captioned]:
    for image in _files(root):
        text = image.with_suffix(".txt")
        if not text.is_file():
            raise DataError(
                f"The image {image.name!r} has no caption file {text.name!r}.",
                "Put a .txt next to each image, or write metadata.jsonl with file_name and caption.",
            )
        caption = " ".join(text.read_text(encoding="utf-8").split())
        if not caption:
            raise DataError(f"The caption file {text.name!r} is empty.", "Write what the image shows.")
        yield _name(image, root), caption, {}


def _captioned(root: Path, rows: Iterator[Captioned]) -> Folder:
    """The records of rows; equal captions are one concept."""
    ids: dict[Caption, int] = {}
    records = []
    for name, caption, row in rows:
        concept = ids.setdefault(Caption(caption, str(row.get("language") or "en")), len(ids))
        style, split = str(row.get("style") or ""), str(row.get("split") or "train")
        hint = next((str(row[column]) for column in HINT_COLUMNS if row.get(column)), "")
        records.append(Record(name, concept, style, split, hint))
    return folder_of(root, records, WrittenCaptions(tuple(ids)))
