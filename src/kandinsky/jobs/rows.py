"""Lists of requests: JSON lines, CSV, plain prompts and COCO captions, as rows with the line they stand on."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kandinsky.core.errors import LONGEST, RequestError, nearest, shortened
from kandinsky.core.metadata import FORMATS
from kandinsky.core.prompts import parse_mix
from kandinsky.core.requests import Request, about, file_fields
from kandinsky.core.texts import BadRow, cells_differ, decode_text, numbered_lines, read_table, read_text
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json
from kandinsky.core.validation import flag_of

OWN = ("id", "mix", "output")
"""What a row may hold besides the fields of a request."""
STDIN = "-"
LONGEST_ID = 200
ROOM = 30
"""Characters of an error for how many bad rows it does not name."""


@dataclass(frozen=True)
class Row:
    """One row: the line it stands on, and its fields as they were written; paths are beside the list, at `base`."""

    line: int
    values: dict[str, Any]
    base: Path


class RowError(RequestError):
    """Rows are wrong; `rows` are all of them, one sentence each."""

    def __init__(self, rows: list[str], of: int) -> None:
        self.rows, self.of = rows, of
        text, shown = f"{len(rows)} of {of} rows cannot be drawn:", 0
        for row in rows:
            if shown and len(text) + len(row) > LONGEST - ROOM:
                break
            text, shown = f"{text} {shortened(row, LONGEST // 2)}", shown + 1
        super().__init__(text, f"And {len(rows) - shown} more." if shown < len(rows) else "")


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a list by its suffix: .jsonl, .csv, .txt (a prompt a line), or .json (COCO captions).

    "-" reads stdin: JSON lines where the first one is an object, else prompts. Files are UTF-8, or UTF-16 with
    a byte order mark; empty lines count and are skipped. Raises RequestError for a file that cannot be read, and
    RowError that names all lines that are no rows.
    """
    if str(path) == STDIN:
        text, base = decode_text(sys.stdin.buffer.read(), "stdin", RequestError), Path()
        suffix = ".jsonl" if text.lstrip().startswith("{") else ".txt"
    else:
        path = Path(path)
        suffix, base = path.suffix.lower(), path.parent
        if suffix not in READERS:
            raise RequestError(f"{path} is not a list of requests.", f"Name it with one of {', '.join(READERS)}.")
        text = read_text(path, RequestError)
    rows, wrong = [], []
    for line, found in READERS[suffix](text):
        if isinstance(found, str):
            wrong.append(f"line {line}: {found}")
        else:
            rows.append(Row(line, found, base))
    if wrong:
        raise RowError(wrong, len(rows) + len(wrong))
    if not rows:
        raise RequestError(f"{path} holds no request.", "Write one a line.")
    return rows


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in numbered_lines(text):
        yield number, _object(line)


def _object(text: str) -> dict[str, Any] | str:
    try:
        data = parse_json(text, finite=True)
    except UnsoundTextError as error:
        return f"This is not JSON ({error})."
    return data if isinstance(data, dict) else f"{text[:40]} is not a JSON object."


def _prompts(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in numbered_lines(text):
        yield number, {"prompt": line.strip()}


def _table(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """A CSV with a header; empty cells are not given, and lists are written as JSON."""
    header: list[str] = []
    for number, row in read_table(text):
        if isinstance(row, BadRow):
            yield number, row.message
        elif not header:
            header = row
        elif len(row) < len(header):
            yield number, cells_differ(row, header).message
        else:
            given = {name: cell for name, cell in zip(header, row, strict=True) if cell}
            yield number, {name: _cell(name, cell) for name, cell in given.items()}


def _cell(name: str, cell: str) -> object:
    """A cell as a value: of a field that takes numbers, the number; JSON lists as lists; else the text."""
    if cell.startswith("["):
        try:
            return parse_json(cell, finite=True)
        except UnsoundTextError:
            return cell
    kind = about()[name].type if name in about() else str
    if kind is bool:
        return flag_of(cell)
    if kind in {int, float}:
        try:
            return int(cell) if kind is int else float(cell)
        except ValueError:
            return cell
    return cell


def _coco(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The captions of a COCO file, each under the id of its annotation."""
    data = _object(text)
    captions = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(captions, list):
        yield 1, data if isinstance(data, str) else "It has no list of annotations, as COCO's captions have."
        return
    for number, one in enumerate(captions, start=1):
        match one:
            case {"id": int(identity), "caption": str(caption)} if caption.strip():
                yield number, {"id": str(identity), "prompt": caption.strip()}
            case _:
                yield number, "This annotation has no id and caption."


READERS = {".jsonl": _json_lines, ".csv": _table, ".txt": _prompts, ".json": _coco}


def identity(row: Row, given: str) -> str:
    """The id of a row, under which its images are kept: its own, the stem of its output, or the one `given`.

    Raises RequestError where it cannot be a file name on every system.
    """
    found = row.values.get("id")
    output = row.values.get("output")
    if output is not None:
        if found is not None:
            raise RequestError("There are an id and an output.", "Give one: the output is the id and a suffix.")
        if not isinstance(output, str) or Path(output).suffix.lower() not in FORMATS:
            raise RequestError(f"output {output!r} has no image format.", nearest(str(output), FORMATS))
        found = output[: -len(Path(output).suffix)]
    name = given if found is None else str(found) if isinstance(found, int) else found
    if not isinstance(name, str) or isinstance(found, bool):
        raise RequestError(f"The id is {found!r}.", "Write a text or a whole number.")
    forbidden = set('/\\:*?"<>|') | {chr(code) for code in range(32)}
    encoded = name.encode("utf-8", "replace")
    if not name or name[0] in ". " or name[-1] in ". " or forbidden & set(name) or len(encoded) > LONGEST_ID:
        raise RequestError(
            f"The id {name[:60]!r} is not a file name.",
            f"Use letters, digits, - and _, up to {LONGEST_ID} bytes, without a folder.",
        )
    return name


def request_of(row: Row, given: Mapping[str, object]) -> Request:
    """The request of a row; the fields `given` are what it does not say. Raises RequestError."""
    data = {name: value for name, value in row.values.items() if name not in ("id", "output")}
    known = (*Request.model_fields, *OWN)
    if unknown := sorted(set(data) - set(known)):
        raise RequestError(f"A row has no {unknown[0]!r}.", nearest(unknown[0], known))
    for name in set(file_fields()) & set(data):
        data[name] = _path(data[name], name, row.base)
    if (parts := data.pop("mix", None)) is not None:
        if "prompt" in data or not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise RequestError(
                "mix is not a list of texts in the place of a prompt.", 'Write ["a cat:0.7", "cat.png:0.3"].'
            )
        data["prompt"] = parse_mix(parts, row.base)
    if data.get("prompt") is None:
        raise RequestError("There is no prompt.", 'Write {"prompt": "a red fox"}.')
    said = {name: value for name, value in data.items() if value is not None}
    return Request(**{**given, **said})


def _path(value: JsonValue, name: str, base: Path) -> Any:
    if isinstance(value, list):
        return [_path(one, name, base) for one in value]
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} is not a file name.", "Write the path of an image.")
    return None if value is None else base / value
