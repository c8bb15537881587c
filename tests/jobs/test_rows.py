"""Lists of requests in all their forms, and what is said of bad ones."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.jobs.rows import Row, RowError, identity, read_rows, request_of


def written(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def values(path: Path | str) -> list[dict[str, object]]:
    return [row.values for row in read_rows(path)]


def test_json_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '\ufeff{"prompt": "a\u2028fox", "id": "x"}\r\n\n{"prompt": "b"}')
    assert [(row.line, row.values) for row in read_rows(path)] == [
        (1, {"prompt": "a\u2028fox", "id": "x"}),
        (3, {"prompt": "b"}),
    ]


def test_prompts(tmp_path: Path) -> None:
    assert values(written(tmp_path, "a.txt", "a fox \n\n  a house\r\n")) == [{"prompt": "a fox"}, {"prompt": "a house"}]


def test_a_table(tmp_path: Path) -> None:
    text = (
        "id,prompt,steps,guidance_scale,seed,guidance_interval\r\n"
        '7,"a fox, ""red""\nand more",3,2.5,,"[0.1, 0.9]"\r\n,b,,,5,\r\n'
    )
    rows = read_rows(written(tmp_path, "a.csv", text))
    assert [row.values for row in rows] == [
        {
            "id": "7",
            "prompt": 'a fox, "red"\nand more',
            "steps": 3,
            "guidance_scale": 2.5,
            "guidance_interval": [0.1, 0.9],
        },
        {"prompt": "b", "seed": 5},
    ]
    assert request_of(rows[0], {}).guidance_interval == (0.1, 0.9)


def test_captions_of_coco(tmp_path: Path) -> None:
    data = {"images": [], "annotations": [{"image_id": 4, "id": 9, "caption": "A man. "}, {"id": 10, "caption": "b"}]}
    path = written(tmp_path, "captions.json", json.dumps(data))
    assert values(path) == [{"id": "9", "prompt": "A man."}, {"id": "10", "prompt": "b"}]


@pytest.mark.parametrize(
    ("text", "expected"), [('{"prompt": "a"}\n', {"prompt": "a"}), ("a fox\n", {"prompt": "a fox"})]
)
def test_stdin(monkeypatch: pytest.MonkeyPatch, text: str, expected: object) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert values("-") == [expected]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        (
            "a.jsonl",
            '{"prompt": "a"}\n[1]\n{"a": \n',
            ["line 2: [1] is not a JSON object.", "line 3: This is not JSON"],
        ),
        ("a.jsonl", "[" * 100_000, ["line 1: This is not JSON"]),
        ("a.csv", 'prompt,steps\na,1\nb\nc,2,3\n"d', ["line 3: It has 1 cells, and the header 2.", "line 4: It has 3"]),
        ("a.csv", "prompt,prompt\na,b\n", ["line 1: Two columns have one name."]),
        ("a.json", '{"annotations": [{"id": 1}, {"id": "2", "caption": "a"}]}', ["line 1: ", "line 2: "]),
        ("a.json", '{"captions": []}', ["line 1: It has no list of annotations"]),
    ],
)
def test_all_bad_lines_are_named(tmp_path: Path, name: str, text: str, lines: list[str]) -> None:
    with pytest.raises(RowError) as caught:
        read_rows(written(tmp_path, name, text))
    assert len(caught.value.rows) >= len(lines)
    for found, expected in zip(caught.value.rows, lines, strict=False):
        assert found.startswith(expected)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", b"\xe9t\xe9", r"a\.jsonl is no UTF-8 text \(byte 0 is 0xe9\)"),
        ("a.txt", "\n \n", "holds no request"),
        ("a.yaml", "a", "not a list of requests"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_rows(written(tmp_path, name, text))
    with pytest.raises(RequestError, match="cannot be read"):
        read_rows(tmp_path / "missing.txt")


def row(**given: object) -> Row:
    return Row(1, given, Path())


def test_ids() -> None:
    assert identity(row(), "07") == "07"
    assert identity(row(id=5), "07") == "5"
    assert identity(row(output="лиса 1.webp"), "07") == "лиса 1"


@pytest.mark.parametrize(
    "bad", ["", "..", ".a", "a/b", "a\\b", "/etc/passwd", "a\0", "a:b", "a ", "x" * 201, "🦊" * 51, True, 1.5, ["a"]]
)
def test_ids_that_are_no_file_names(bad: object) -> None:
    with pytest.raises(RequestError, match="id"):
        identity(row(id=bad), "07")


@pytest.mark.parametrize(
    "given", [{"output": "a.gif"}, {"output": 3}, {"output": "../a.png"}, {"id": 1, "output": "a.png"}]
)
def test_outputs_that_are_none(given: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        identity(row(**given), "07")


def test_a_request_of_a_row(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    found = request_of(Row(1, {"prompt": "a", "image": "red.png", "steps": None}, tmp_path), {"steps": 7, "width": 64})
    assert (found.steps, found.width, found.image.name) == (7, 64, "red.png")  # type: ignore[union-attr]
    mixed = request_of(Row(1, {"mix": ["a cat:0.7", "red.png:0.3"]}, tmp_path), {})
    assert mixed.prompts[0].weights == (0.7, 0.3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no prompt"),
        ({"prompt": None}, "no prompt"),
        ({"promt": "a"}, "no 'promt'. Did you mean 'prompt'"),
        ({"prompt": "a", "mix": ["b"]}, "mix is not"),
        ({"mix": "b"}, "mix is not"),
        ({"prompt": "a", "image": 3}, "image is not a file name"),
        ({"prompt": "a", "image": "gone.png"}, "gone"),
        ({"prompt": "a", "steps": "3"}, "steps"),
        ({"prompt": "a", "steps": 0}, "steps 0"),
    ],
)
def test_rows_that_are_no_requests(given: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request_of(row(**given), {})


def test_switches_of_a_table(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a.csv", "prompt,prompt_weights\n(a:1.5),yes\n(a:1.5),FALSE\na,maybe\n"))
    assert [request_of(row, {}).prompt_weights for row in rows[:2]] == [True, False]
    with pytest.raises(RequestError, match="prompt_weights must be True or False, not 'maybe'"):
        request_of(rows[2], {})
    line = written(
        tmp_path, "a.jsonl", '{"prompt": "(a:1.5)", "prompt_weights": true}\n{"prompt": "(a", "prompt_weights": true}'
    )
    first, second = read_rows(line)
    assert request_of(first, {}).prompt_weights
    with pytest.raises(RequestError, match="at character 1"):
        request_of(second, {})
