"""JSON and TOML of strangers: bounded in size, depth and numbers."""

import time
from pathlib import Path

import pytest

from kandinsky.core.errors import LONGEST, KandinskyError, shortened
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, parse_toml, read_bytes

JSON = {
    "deep lists": "[" * 100 + "]" * 100,
    "deeper than Python": "[" * 100_000,
    "deep tables": '{"a":' * 100 + "1" + "}" * 100,
    "NaN": '{"a": [NaN]}',
    "5000 digits": "9" * 5000,
    "60 digits": '{"a": 1' + "0" * 60 + "}",
    "half a pair": '{"a": "\\ud800"}',
    "half a pair as a key": '{"\\udfff": 1}',
    "one key twice": '{"a": 1, "a": 2}',
    "cut": '{"a": ',
    "empty": "",
}
TOML = {
    "deep lists": b"a = " + b"[" * 100 + b"]" * 100,
    "deeper than Python": b"a = " + b"[" * 50_000,
    "a long dotted key": b"a." * 50_000 + b"a = 1",
    "5000 digits": b"a = " + b"9" * 5000,
    "nan": b"a = nan",
    "inf": b"a = -inf",
    "no UTF-8": b"a = '\xff'",
    "too long": b"#" * 2_000_000,
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("encoded", [False, True])
def test_json(name: str, encoded: bool) -> None:
    text = JSON[name]
    with pytest.raises(UnsoundTextError) as caught:
        parse_json(text.encode() if encoded else text)
    assert len(str(caught.value)) < 200


def test_json_that_is_sound() -> None:
    sound = (
        '\ufeff{"a": [1e30, 1000000000000000019884624838656, null, true, "\\ud83e\\udd8a"], "b": -Infinity}'.encode()
    )
    found = parse_json(sound)
    assert found == {"a": [1e30, 1000000000000000019884624838656, None, True, "🦊"], "b": float("-inf")}
    with pytest.raises(UnsoundTextError, match="not finite"):
        parse_json(sound, finite=True)
    assert parse_json('{"a": 1, "a": 1}') == {"a": 1}


@pytest.mark.parametrize("name", TOML)
def test_toml(name: str) -> None:
    began = time.process_time()
    with pytest.raises(UnsoundTextError):
        parse_toml(TOML[name])
    assert time.process_time() - began < 2


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file"):
        read_bytes(tmp_path)
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(UnsoundTextError):
        read_bytes(tmp_path / "x", 4)


@pytest.mark.parametrize("text", ["a" * 100_000, "a\nb\tc\x00\ud800" * 500, "é" * 600])
def test_messages_are_one_short_line(text: str) -> None:
    error = KandinskyError(f"{text} is wrong.", "Do this.")
    assert len(str(error)) <= LONGEST
    assert str(error).isprintable()
    assert str(error).endswith("is wrong. Do this.")
    assert shortened("as it is") == "as it is"
