"""A folder of pictures with captions, read into records without opening a picture."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kandinsky.core.errors import DataError

METADATA, TABLE = "metadata.jsonl", "metadata.csv"
FILE_COLUMNS = ("file_name", "image_name", "paths", "image_path", "path")
CAPTION_COLUMNS = ("caption", "text", "prompt")
HINT_COLUMNS = ("hint", "hint_image", "conditioning_image")
"""What tables of pictures call their files, captions and hints, in the order in which they are looked for."""
PICTURE_SUFFIXES = frozenset({".png", ".webp", ".jpg", ".jpeg", ".bmp", ".gif"})


@dataclass(frozen=True)
class Words:
    """What one thing is called in one language: a short noun phrase, and single words that describe it."""

    label: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Concept:
    """One thing that pictures show; `words` by language. A `verbatim` label is used exactly as it was
    written."""

    key: str
    name: str
    group: str = ""
    words: Mapping[str, Words] = field(default_factory=dict)
    verbatim: bool = False


@dataclass(frozen=True)
class Record:
    """One picture file: its path under the root, concept id, style name and split (`train` or `test`).

    `hint` is the path of a picture of the same proportions that goes with it, under the root too or absolute.
    """

    file_name: str
    concept: int
    style: str
    split: str
    hint: str = ""


class Row(NamedTuple):
    """One picture with its caption, as a layout without concepts has it."""

    file_name: str
    caption: str
    language: str = "en"
    style: str = ""
    split: str = "train"
    hint: str = ""


@dataclass(frozen=True)
class Folder:
    """Records and the concepts they point to; `styles` in sorted order give the style ids."""

    root: Path
    records: tuple[Record, ...]
    concepts: tuple[Concept, ...]
    styles: tuple[str, ...]


def read_folder(root: str | Path) -> Folder:
    """Reads one of four layouts, the first that fits; a table of the third may be given itself.

    - `metadata.jsonl` (`file_name`, `codepoints`, `style`, `split`) beside `concepts.json`
      (`{codepoints: {concept, group, captions: {language: {label, tags}}}}`);
    - `metadata.jsonl` with `file_name` and `caption` (and, if wanted, `language`, `style`, `split`, `hint`);
    - `metadata.csv` with a column of files (`file_name`, `image_name` or `paths`) and one of captions
      (`caption`);
    - pictures with a `.txt` caption of the same name.

    Raises DataError when the folder, a picture or a caption is missing, or a line is not what it should be.
    """
    path = Path(root)
    if path.suffix == ".csv" and path.is_file():
        return _read_captions(path.parent, _captioned_rows(path))
    if not path.is_dir():
        raise DataError(f"There is no folder {str(path)!r}.", "Give the folder that holds the pictures.")
    metadata, concepts = path / METADATA, path / "concepts.json"
    if metadata.is_file() and concepts.is_file():
        return _read_concepts(path, metadata, concepts)
    if metadata.is_file():
        return _read_captions(path, _captioned_lines(metadata))
    if (path / TABLE).is_file():
        return _read_captions(path, _captioned_rows(path / TABLE))
    return _read_captions(path, _captioned_files(path))


def read_bare_folder(root: str | Path) -> Folder:
    """Reads a folder of pictures that need no captions; those beside them are not read.

    Raises DataError when the folder or its pictures are missing.
    """
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"There is no folder {str(path)!r}.", "Give the folder that holds the pictures.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    records = [Record(file.relative_to(path).as_posix(), 0, "", "train") for file in files]
    return _folder(path, records, (Concept("", "", verbatim=True),))


def _lines(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with metadata.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{metadata.name} line {number} is not JSON: {error}.", "Write one object a line."
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise DataError(
                    f"{metadata.name} line {number} has no file_name.", "Each line names its picture."
                )
            if not (metadata.parent / row["file_name"]).is_file():
                raise DataError(
                    f"{metadata.name} line {number} names {row['file_name']!r}, which is not there.",
                    "Paths are relative to the folder of metadata.jsonl.",
                )
            yield number, row


def _parse_concept(key: str, entry: Any) -> Concept:
    try:
        words = {
            language: Words(str(spoken["label"]), tuple(str(tag) for tag in spoken.get("tags", ())))
            for language, spoken in entry["captions"].items()
        }
        return Concept(key, str(entry["concept"]), str(entry.get("group", "")), words)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"concepts.json: the entry of {key!r} is not {{concept, group, captions}}: {error!r}.",
            "Build the folder again with its recipe.",
        ) from error


def _read_concepts(root: Path, metadata: Path, concepts: Path) -> Folder:
    try:
        table = json.loads(concepts.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{concepts.name} is not JSON: {error}.", "Build the folder again with its recipe."
        ) from error
    known = tuple(_parse_concept(key, table[key]) for key in sorted(table))
    ids = {concept.key: i for i, concept in enumerate(known)}
    records = []
    for number, row in _lines(metadata):
        key = row.get("codepoints")
        if key not in ids:
            raise DataError(
                f"{metadata.name} line {number}: concepts.json has no entry {key!r}.",
                "Both files must come from one build.",
            )
        records.append(
            Record(row["file_name"], ids[key], str(row.get("style", "")), str(row.get("split", "train")))
        )
    return _folder(root, records, known)


def _captioned_lines(metadata: Path) -> Iterator[Row]:
    for number, row in _lines(metadata):
        caption = row.get("caption")
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(
                f"{metadata.name} line {number} ({row['file_name']!r}) has no caption.",
                'Add "caption": "what the picture shows".',
            )
        language, style, split = (
            str(row.get(k, d)) for k, d in (("language", "en"), ("style", ""), ("split", "train"))
        )
        hint = next((str(row[name]) for name in HINT_COLUMNS if row.get(name)), "")
        yield Row(row["file_name"], caption.strip(), language, style, split, hint)


def _captioned_rows(table: Path) -> Iterator[Row]:
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
            name, caption = (str(row[column] or "").strip() for column in chosen)
            if not (table.parent / name).is_file():
                raise DataError(
                    f"{table.name} line {rows.line_num} names {name!r}, which is not there.",
                    f"Paths are relative to the folder of {table.name}.",
                )
            if not caption:
                raise DataError(
                    f"{table.name} line {rows.line_num} ({name!r}) has no caption.",
                    "Write what the picture shows.",
                )
            given = (str(row.get(key) or usual) for key, usual in (("language", "en"), ("style", "")))
            language, style = given
            hint = next((str(row[column]) for column in HINT_COLUMNS if row.get(column)), "")
            yield Row(name, caption, language, style, str(row.get("split") or "train"), hint)


def _captioned_files(root: Path) -> Iterator[Row]:
    for picture in sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES):
        text = picture.with_suffix(".txt")
        if not text.is_file():
            raise DataError(
                f"The picture {picture.name!r} has no caption file {text.name!r}.",
                "Put a .txt beside each picture, or write metadata.jsonl with file_name and caption.",
            )
        caption = " ".join(text.read_text(encoding="utf-8").split())
        if not caption:
            raise DataError(f"The caption file {text.name!r} is empty.", "Write what the picture shows.")
        yield Row(picture.relative_to(root).as_posix(), caption)


def _read_captions(root: Path, rows: Iterator[Row]) -> Folder:
    ids: dict[tuple[str, str], int] = {}
    records = []
    for row in rows:
        concept = ids.setdefault((row.language, row.caption), len(ids))
        records.append(Record(row.file_name, concept, row.style, row.split, row.hint))
    concepts = [Concept(c, c, words={language: Words(c)}, verbatim=True) for language, c in ids]
    return _folder(root, records, tuple(concepts))


def _folder(root: Path, records: list[Record], concepts: tuple[Concept, ...]) -> Folder:
    if not records:
        raise DataError(
            f"The folder {str(root)!r} holds no pictures.",
            "Expected metadata.jsonl, or pictures with .txt captions.",
        )
    return Folder(root, tuple(records), concepts, tuple(sorted({record.style for record in records})))
