"""Texts of users in every usual encoding, lines of JSON, tables."""

import re
from pathlib import Path

import pytest

from kandinsky import core
from kandinsky.core.errors import DataError, RequestError
from kandinsky.core.texts import decode_text, is_visible, numbered_lines, read_text, table_rows

TEXT = "a café, красная игрушка\nsecond"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_say_what_they_are(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT


def test_big_ends_first() -> None:
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a") == TEXT
    assert decode_text(b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"), "a") == TEXT


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("a caf\u00e9".encode("latin-1"), r"byte 5 is 0xe9|it ends early"),
        ("it\u2019s".encode("cp1252"), "byte 2 is 0x92"),
        ("красный".encode("cp1251"), "byte 0 is 0xea"),
        (b"\xff\xfea", "byte 2 is 0x61"),
    ],
)
def test_others_are_named_with_file_and_byte(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.txt is no UTF-8 text \(({found})\)") as raised:
        read_text(tmp_path / "a.txt")
    assert "\n" not in str(raised.value)
    with pytest.raises(RequestError, match=r"there is no|cannot be read"):
        read_text(tmp_path / "b.txt", RequestError)


def test_lines_end_at_newlines_only() -> None:
    assert list(numbered_lines("a\u2028b\n\n \nc\u0085d\x0b\r\n")) == [(1, "a\u2028b"), (4, "c\u0085d\x0b\r")]


def test_tables_give_their_rows_with_lines() -> None:
    text = 'file_name , caption\r\na.png,"one, ""two"""\r\n\r\nb.png,"of\ntwo lines"\nc.png\n'
    assert list(table_rows(text, "t.csv")) == [
        (1, ["file_name", "caption"]),
        (2, ["a.png", 'one, "two"']),
        (5, ["b.png", "of\ntwo lines"]),
        (6, ["c.png"]),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,a red toy, on a table", r"t\.csv line 2 has 3 cells, and the header 2.*quotes"),
        ('a.png,"a red toy\nb.png,a blue toy', r"t\.csv line 3 is no CSV"),
        ('a.png,"a red toy\nb.png,"a blue toy', r"t\.csv line 3 is no CSV"),
        ('a.png,"a "red" toy"', r"t\.csv line 2 is no CSV"),
        (f"a.png,{'x' * 140_000}", r"t\.csv line 2 is no CSV"),
    ],
)
def test_tables_are_strict(rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(table_rows(f"file_name,caption\n{rows}\n", "t.csv"))
    with pytest.raises(DataError, match="line 1: Two columns have one name"):
        list(table_rows("a,a\n", "t.csv"))


@pytest.mark.parametrize(("text", "seen"), [("", False), ("\ufeff \u200b\n", False), ("a", True), ("。", True)])
def test_what_can_be_seen(text: str, seen: bool) -> None:
    assert is_visible(text) is seen


GUESSED = r"""errors="(replace|ignore)"|(decode|encode|read_text)\("[^"]*", "(replace|ignore)"\)"""
NOT_TEXTS_OF_USERS = {
    "jobs/supervisor.py": "the last words of a process that died",
    "checkpoints/hub.py": "a commit in the cache, which must be forty digits",
    "core/foreign_metadata.py": "what another tool wrote of an image, for showing",
    "cli/interpolate.py": "the last words of ffmpeg",
    "jobs/rows.py": "how long a name is in bytes",
    "cli/batch.py": "the last words of a process that died",
    "core/system.py": "files of the kernel",
    "core/metadata.py": "a packet in an image, in which only this library's own text is looked for",
    "checkpoints/diffusers_folder.py": "a model card, of which one line is looked for",
}


@pytest.mark.parametrize("data", ["a red disc".encode("utf-16-le"), b"a\x00b"])
def test_zeros_are_no_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.txt is no text: character 1 is 0"):
        read_text(tmp_path / "a.txt")


def test_no_text_of_a_user_is_guessed() -> None:
    root = Path(core.__path__[0]).parent
    guessing = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(GUESSED, path.read_text(encoding="utf-8")) and "compat" not in path.parts
    }
    assert guessing <= NOT_TEXTS_OF_USERS.keys()
