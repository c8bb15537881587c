"""Texts in files of users: one reader for captions, tables, lists of requests and settings."""

import codecs
import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kandinsky.core.errors import DataError, KandinskyError
from kandinsky.core.untrusted_text import UnsoundTextError, read_bytes

LARGEST = 2**30
"""Bytes of a text; tables of millions of captions have some hundred million."""

MARKS = (
    # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
"""Byte order marks, and the encodings that they tell of."""


def read_text(path: str | Path, error: type[KandinskyError] = DataError) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one.

    Raises `error`, which names the file, and the byte where it is in another encoding.
    """
    try:
        data = read_bytes(Path(path), LARGEST)
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror or problem}).", "Check the path.") from problem
    except UnsoundTextError as problem:
        raise error(f"{path} cannot be read: {problem}.", "Split it.") from problem
    return decode_text(data, str(path), error)


def decode_text(data: bytes, name: str, error: type[KandinskyError] = DataError) -> str:
    """The text of a file's bytes; as `read_text`, with `name` in errors."""
    encoding = next((found for mark, found in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        if "\0" in text:  # as in UTF-16 that does not say so
            raise error(f"{name} is no text: character {text.index(chr(0))} is 0.", "Save it as UTF-8.")
        return text
    except UnicodeDecodeError as problem:
        found = f"byte {problem.start} is 0x{data[problem.start]:02x}" if problem.start < len(data) else "it ends early"
        raise error(f"{name} is no UTF-8 text ({found}).", "Save it as UTF-8.") from problem


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers from 1.

    Lines end at a newline only: JSON may hold other separators of lines (U+2028, U+0085) inside of texts.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


@dataclass(frozen=True)
class BadRow:
    """What is wrong with a row of a table, as a sentence, and what to do."""

    message: str
    hint: str


def read_table(text: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """The rows of a CSV that are not empty, the header first, each with the number of the line that it ends on.

    A row of more cells than the header has is a BadRow; so are two columns of one name, and quotes that are not in
    pairs: nothing comes behind these.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    yield reader.line_num, BadRow("Two columns have one name.", "Rename one of them.")
                    return
                yield reader.line_num, header
            elif len(cells) > len(header):
                yield reader.line_num, cells_differ(cells, header)
            else:
                yield reader.line_num, cells
    except csv.Error as problem:
        hint = 'Close the quotes of each text, and write "" for a quote inside.'
        yield reader.line_num, BadRow(f"It is no CSV ({problem}).", hint)


def cells_differ(cells: Sequence[str], header: Sequence[str]) -> BadRow:
    """What is wrong with a row that has not as many cells as the header."""
    message = f"It has {len(cells)} cells, and the header {len(header)}."
    return BadRow(message, 'Put a text that holds a comma in quotes: "a toy, on a table".')


def table_rows(text: str, name: str, error: type[KandinskyError] = DataError) -> Iterator[tuple[int, list[str]]]:
    """As `read_table`; raises `error`, which names the line, for the first row that is wrong."""
    for number, row in read_table(text):
        if isinstance(row, BadRow):
            said = row.message.removeprefix("It ")
            raise error(f"{name} line {number}{'' if said != row.message else ':'} {said}", row.hint)
        yield number, row


def is_visible(text: str) -> bool:
    """Whether a text has anything to read: a letter, a sign; no mere spaces, marks of order or controls."""
    return any(unicodedata.category(letter)[0] not in "ZC" for letter in text)
