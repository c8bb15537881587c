"""A folder of images with captions, read into records without opening an image."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kandinsky.core.errors import ConfigError, DataError, nearest
from kandinsky.core.files import is_there
from kandinsky.core.texts import is_visible, numbered_lines, read_text, table_rows
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json
from kandinsky.training.data.caption import Caption, Captioner, Templates, WrittenCaptions
from kandinsky.training.data.listing import CAPTIONS, METADATA, TABLES, Listing, list_folder

FILE_COLUMNS = ("file_name", "image_name", "paths", "image_path", "path", "image", "file", "filename")
CAPTION_COLUMNS = ("caption", "text", "prompt")
HINT_COLUMNS = ("hint", "hint_image", "conditioning_image")
"""What tables of images call their files, captions and hints, in the order in which they are looked for."""
SOURCE = "unpacked_from"
"""Where a line of a table that was unpacked comes from, for errors."""
SPLITS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""The splits by what tables and folders call them, in lower case."""
BARE = Templates(("",))

Row = tuple[str, Mapping[str, object]]
"""What a table says of an image, with its place for errors."""


@dataclass(frozen=True)
class Record:
    """One image file: its path under the root, what it shows, style name and split (see `SPLITS`).

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

    `painter`, where a recipe has one, is made of decoded images (N, 4, S, S) and a folder for caches. `left_out` says
    how many files and folders are no records, by reason.
    """

    root: Path
    records: tuple[Record, ...]
    captioner: Captioner
    styles: tuple[str, ...] = ("",)
    painter: Callable[[Tensor, Path], Painter] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """What the tables of a folder call images and captions; None for the usual names."""

    image: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Captioned:
    """A file under the root, its caption, its split and what else its row says."""

    name: str
    caption: str
    split: str
    row: Mapping[str, object] = field(default_factory=dict)


def read_folder(
    root: str | Path, columns: Columns = Columns(), *, optional: bool = False, out: Path | None = None
) -> Folder:
    """Reads one of these layouts, the first that fits; a table may be given itself.

    - `metadata.jsonl` or `metadata.csv` with a column of files (`file_name`, `image`, ...) and one of captions
      (`caption`, `text`), and, if wanted, `language`, `style`, `split` and `hint`;
    - such tables in folders below, as in `train/metadata.jsonl`;
    - images with a `.txt` caption of the same name.

    A folder `train`, `validation` or `test` names the split of what is in it. Where captions are `optional` one that is
    missing is empty. `out` is the folder of the run, which is left out. Raises DataError when the folder, an image or a
    caption is missing, or a line is not what it should be; ConfigError for columns that no table has.
    """
    path = Path(root)
    if path.suffix.lower() in TABLES and path.is_file():
        return _folder(path.parent, _rows_of_tables(path.parent, [path], columns, optional), {})
    listing = list_folder(path, out)
    if tables := listing.tables:
        found = list(_rows_of_tables(path, tables, columns, optional))
        left_out = _with_unlisted(listing, found, tables)
        covered = {table.parent for table in tables}
        free = [image for image in listing.images if not covered & {*image.parents}]
        return _folder(path, [*found, *(_beside(image, path, optional) for image in free)], left_out)
    _refuse_columns(columns, path)
    return _folder(path, [_beside(image, path, optional) for image in listing.images], listing.left_out)


def read_bare_folder(root: str | Path, captioner: Captioner = BARE, out: Path | None = None) -> Folder:
    """Reads a folder of images that need no captions; caption files are not read.

    Of tables only the splits count: images that a table does not list are there too. Raises DataError when the
    folder or its images are missing.
    """
    path = Path(root)
    if path.suffix.lower() in TABLES and path.is_file():
        named = [_split_and_name(path.parent, path, place, row, Columns()) for place, row in read_table(path)]
        records = [Record(name, 0, "", split) for split, name in named]
        return folder_of(path.parent, records, captioner)
    listing = list_folder(path, out)
    said: dict[str, str] = {}
    for table in listing.tables:
        for place, row in read_table(table):
            if row.get("split"):
                split, name = _split_and_name(path, table, place, row, Columns())
                said[name] = split
    names = [_name(image, path) for image in listing.images]
    records = [Record(name, 0, "", said.get(name) or _split_of_path(name)) for name in names]
    return folder_of(path, records, captioner, listing.left_out)


def read_lines(metadata: Path) -> Iterator[Row]:
    """The objects of a file of JSON lines that name images, each with its place for errors.

    Raises DataError for a line that is no object, and for an image that is not there.
    """
    for place, row in read_table(metadata):
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{place} has no file_name.", "Each line names its image.")
        _check_there(metadata, place, str(row["file_name"]))
        yield place, row


def read_table(table: Path) -> Iterator[Row]:
    """The rows of a table, JSON lines or CSV, by columns; DataError for a line that is none."""
    text = read_text(table)
    if table.suffix.lower() == ".csv":
        rows = table_rows(text, table.name)
        header = next(rows, (0, []))[1]
        for number, cells in rows:
            # What a short row leaves out is empty, as spreadsheets write it: an error about it then names its column.
            yield f"{table.name} line {number}", dict(zip_longest(header, cells, fillvalue=""))
        return
    for number, line in numbered_lines(text):
        place = f"{table.name} line {number}"
        try:
            row = parse_json(line)
        except UnsoundTextError as error:
            raise DataError(f"{place} is not JSON: {error}.", "Write one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is not an object.", 'Write {"file_name": ..., "caption": ...}.')
        yield place, row


def folder_of(
    root: Path, records: list[Record], captioner: Captioner, left_out: Mapping[str, int] | None = None
) -> Folder:
    """A folder of these records; DataError when there are none."""
    if not records:
        seen = f" ({counted(left_out)} left out)" if left_out else ""
        raise DataError(
            f"The folder {str(root)!r} holds no images{seen}.", "Expected metadata.jsonl, or images with .txt captions."
        )
    styles = tuple(sorted({record.style for record in records}))
    return Folder(root, tuple(records), captioner, styles, left_out=left_out or {})


def counted(left_out: Mapping[str, int]) -> str:
    """What was left out, in words, such as "2 hidden, 1 .heic"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()) if count)


def split_called(name: str) -> str | None:
    """The split that a word stands for; None for an unknown one."""
    return SPLITS.get(name.strip().lower())


def caption_in(value: object) -> str:
    """The caption in a cell: the text, or the first of a list of texts; empty for what is none."""
    first = value[0] if isinstance(value, list) and value else value
    return " ".join(first.split()) if isinstance(first, str) and is_visible(first) else ""


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _split_of_path(name: str) -> str:
    """The split of a file by the folder at the root that it lies in."""
    parts = name.split("/")
    return (split_called(parts[0]) if len(parts) > 1 else None) or "train"


def _check_there(table: Path, place: str, name: str) -> None:
    if not is_there(table.parent / name) or not (table.parent / name).is_file():
        raise DataError(
            f"{place} names {name!r}, which is not there.", f"Paths are relative to the folder of {table.name}."
        )


def _split_and_name(
    root: Path, table: Path, place: str, row: Mapping[str, object], columns: Columns
) -> tuple[str, str]:
    """The split of a row, and its image as a path under the root."""
    chosen = _column(table, place, row, columns.image, FILE_COLUMNS, "image")
    given = row[chosen]
    if not isinstance(given, str) or not given.strip():
        raise DataError(f"{place} has no {chosen}.", "Each line names its image.")
    _check_there(table, place, given.strip())
    name, nested = given.strip(), table.parent != root
    if nested and not Path(name).is_absolute():
        name = _name(table.parent / name, root)
    word = str(row.get("split") or "")
    split = split_called(word) if word else _split_of_path(name)
    if split is None:
        raise DataError(f"{place} is of the split {word!r}.", nearest(word, ("train", "validation", "test")))
    return split, name


def _column(
    table: Path, place: str, row: Mapping[str, object], named: str | None, usual: tuple[str, ...], what: str
) -> str:
    """The column of a row that is named, or called as usual; ConfigError and DataError."""
    if named is not None:
        if named not in row:
            raise ConfigError(f"data.{what}_column: {place} has no {named!r}.", nearest(named, [*row]))
        return named
    found = next((name for name in usual if row.get(name) is not None), None)
    if found is None:
        word = "columns" if table.suffix.lower() == ".csv" else "keys"
        raise DataError(
            f"{place} has none of the {word} {', '.join(usual)}.",
            f"It has: {', '.join(map(str, row)) or 'none'}. Name the right one by data.{what}_column.",
        )
    return found


def _rows_of_tables(root: Path, tables: list[Path], columns: Columns, optional: bool) -> Iterator[Captioned]:
    for table in tables:
        hint = "Write what the image shows."
        if table.suffix.lower() == ".jsonl":
            hint = 'Add "caption": "what the image shows".'
        if (table.parent / "concepts.json").is_file():
            hint = "The folder has concepts.json: name the recipe that built it in data.recipe."
        for place, row in read_table(table):
            split, name = _split_and_name(root, table, place, row, columns)
            caption = _caption_of_row(table, place, row, columns)
            if not caption and not optional:
                raise DataError(f"{row.get(SOURCE) or place} ({name!r}) has no caption.", hint)
            yield Captioned(name, caption, split, row)


def _caption_of_row(table: Path, place: str, row: Mapping[str, object], columns: Columns) -> str:
    if columns.caption is None and any(name in row for name in CAPTION_COLUMNS):
        return next((found for name in CAPTION_COLUMNS if (found := caption_in(row.get(name)))), "")
    if columns.caption is None and table.suffix.lower() == ".jsonl":
        return ""
    return caption_in(row[_column(table, place, row, columns.caption, CAPTION_COLUMNS, "caption")])


def _with_unlisted(listing: Listing, found: list[Captioned], tables: list[Path]) -> Mapping[str, int]:
    """What was left out, with the images that no table lists, and tables beside the one that was read."""
    listed = {(listing.root / one.name).resolve() for one in found}
    left, covered = Counter(listing.left_out), {table.parent for table in tables}
    inside = [image for image in listing.images if covered & {*image.parents}]
    left[f"not in {tables[0].name}"] = sum(image.resolve() not in listed for image in inside)
    beside = [path for path in listing.texts if path.suffix in TABLES and path.parent == listing.root]
    left["other table"] = len([path for path in beside if path not in tables])
    return left


def _refuse_columns(columns: Columns, root: Path) -> None:
    """Raises ConfigError for columns where captions lie beside images, and no table has any."""
    for name, value in (("image_column", columns.image), ("caption_column", columns.caption)):
        if value is not None:
            raise ConfigError(
                f"data.{name} is {value!r}, but {str(root)!r} has no table.", f"Leave it out, or write {METADATA}."
            )


def _beside(image: Path, root: Path, optional: bool) -> Captioned:
    """An image with the caption in the file beside it."""
    places = [*(image.with_suffix(suffix) for suffix in CAPTIONS), image.with_name(f"{image.name}.txt")]
    text = next((place for place in places if place.is_file()), None)
    name = _name(image, root)
    if text is None and not optional:
        raise DataError(
            f"The image {image.name!r} has no caption file {places[0].name!r}.",
            "Put a .txt next to each image, or write metadata.jsonl with file_name and caption.",
        )
    caption = caption_in(read_text(text)) if text is not None else ""
    if not caption and not optional:
        raise DataError(f"The caption file {str(text)!r} is empty.", "Write what the image shows.")
    return Captioned(name, caption, _split_of_path(name))


def _folder(root: Path, rows: "Iterator[Captioned] | list[Captioned]", left_out: Mapping[str, int]) -> Folder:
    """The records of rows; equal captions are one concept."""
    ids: dict[Caption, int] = {}
    records = []
    for one in rows:
        row = one.row
        concept = ids.setdefault(Caption(one.caption, str(row.get("language") or "en")), len(ids))
        hint = next((str(row[column]) for column in HINT_COLUMNS if row.get(column)), "")
        records.append(Record(one.name, concept, str(row.get("style") or ""), one.split, hint))
    return folder_of(root, records, WrittenCaptions(tuple(ids)), left_out)
