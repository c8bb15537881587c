"""`kandinsky generate --requests`: lines, defaults, what is there already, bad lines, interruptions."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kandinsky
from kandinsky.cli.main import run
from kandinsky.core.metadata import read_metadata, write_image
from kandinsky.core.requests import Mix
from tests.cli.fakes import FakePipeline, Loader

Command = Callable[..., int]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    loader = Loader(FakePipeline())
    monkeypatch.setitem(kandinsky.__dict__, "load", loader)
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    return loader


@pytest.fixture
def generate(loader: Loader) -> Command:
    """Writes lines to a file and runs the command on it."""

    def call(lines: list[Any], *flags: object) -> int:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        Path("asked.jsonl").write_text("\n".join(texts), encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            run(["generate", "--requests", "asked.jsonl", "-o", "out", *map(str, flags)])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


def files() -> list[str]:
    return sorted(os.listdir("out"))


def test_each_line_is_drawn_with_flags_for_what_it_leaves_out(
    generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 16), (9, 8, 7)).save("in.png")
    lines = [
        {"prompt": "A red fox!", "seed": 7, "guidance_scale": 2},
        "",
        {"prompt": "a cat", "seed": 1, "image": "in.png", "strength": 0.5, "steps": 2, "output": "cat.jpg"},
        {"mix": ["a cat:0.7", "in.png:0.3"], "seed": 3},
        {"prompt": ["a", "b"], "seed": [5, 9], "count": 2},
    ]
    assert generate(lines, "--steps", 3, "--batch-size", 4, "--tiling", "--compile") == 0
    assert files() == sorted(
        ["0001-a-red-fox.png", "cat.jpg", "0004-a-cat-in.png", *(f"0005-a-000{i}.png" for i in range(1, 5))]
    )
    assert loader.pipeline.batch_sizes == [4]
    assert loader.calls[0][1] == {"tiling": True, "compile": True}
    asked = {request.seed: request for request in loader.pipeline.asked}
    assert sorted(asked) == [1, 3, 5, 6, 7, 9, 10]
    assert [asked[seed].steps for seed in (7, 1, 3)] == [3, 2, 3]
    assert asked[7].guidance_scale == 2
    assert asked[1].image is not None
    assert (asked[1].width, asked[1].height) == (24, 16)
    assert isinstance(asked[3].prompt, Mix)
    assert [asked[seed].prompt for seed in (5, 6, 9, 10)] == ["a", "a", "b", "b"]
    stored = read_metadata("out/cat.jpg")
    assert (stored.request["seed"], stored.request["count"], stored.settings) == (1, 1, loader.calls[0][1])
    assert sorted(capsys.readouterr().out.split()) == [f"out/{name}" for name in files()]


LINES = [{"prompt": "a fox", "seed": 1}, {"prompt": "a cat", "count": 2}, {"prompt": "a dog", "seed": 3}]


def test_a_byte_order_mark_is_no_part_of_the_first_line(generate: Command) -> None:
    assert generate(["\ufeff" + json.dumps({"prompt": "a fox", "output": "fox.png"})]) == 0
    assert files() == ["fox.png"]


def test_what_is_there_is_left_alone(generate: Command, loader: Loader) -> None:
    assert generate(LINES) == 0
    before = {name: Path("out", name).read_bytes() for name in files()}
    assert len(before) == 4
    Path("out/0003-a-dog.png").unlink()
    Path("out/0002-a-cat-0002.png").unlink()
    loader.pipeline.asked.clear()
    assert generate(LINES) == 0
    assert sorted(request.prompt for request in loader.pipeline.asked) == ["a cat", "a dog"]
    assert files() == sorted(before)
    for name in ("0001-a-fox.png", "0002-a-cat-0001.png", "0003-a-dog.png"):
        assert Path("out", name).read_bytes() == before[name]
    loads = len(loader.calls)
    assert generate(LINES) == 0
    assert len(loader.calls) == loads  # nothing is loaded where nothing is left


def test_an_interruption_keeps_what_is_done(generate: Command, loader: Loader) -> None:
    def stop(step: int) -> None:
        if len(loader.pipeline.asked) == 3:
            raise KeyboardInterrupt

    loader.pipeline.on_step = stop
    assert generate(LINES) == 130
    assert files() == ["0002-a-cat-0002.png", "0003-a-dog.png"]
    loader.pipeline.on_step = lambda step: None
    assert generate(LINES) == 0
    assert len(files()) == 4


def test_another_image_in_the_place_is_no_result(
    generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(LINES) == 0
    changed = [*LINES[:2], LINES[2] | {"steps": 2}]
    loads = len(loader.calls)
    for lines, flags in ((changed, ()), (LINES, ("--guidance-scale", 9)), (LINES, ("--model", "other"))):
        assert generate(lines, *flags) == 1
        said = capsys.readouterr().err
        assert "is there already" in said
        assert "line 3" in said or flags
    write_image(Image.fromarray(np.zeros((4, 4, 3), np.uint8)), "out/0001-a-fox.png")
    assert generate(LINES) == 1
    assert "asked.jsonl line 1" in capsys.readouterr().err
    assert len(loader.calls) == loads


BAD: list[tuple[Any, str]] = [
    ("{", "is no JSON"),
    ("[1]", "is no JSON object"),
    ({"promt": "a"}, "no 'promt'. Did you mean 'prompt'?"),
    ({"seed": 1}, "There is no prompt"),
    ({"prompt": "a", "steps": 0}, "steps 0 is outside 1 to 1000"),
    ({"prompt": "a", "image": "gone.png"}, "gone.png"),
    ({"prompt": "a", "image": 3}, "image is no file name"),
    ({"prompt": "a", "mix": ["b"]}, "mix is not a list of texts"),
    ({"mix": "b"}, "mix is not a list of texts"),
    ({"prompt": "a", "output": "../a.png"}, "no file name"),
    ({"prompt": "a", "output": "a.txt"}, "no image format"),
    ({"prompt": "a", "output": "first.png"}, "is the output of line 1 too"),
    ({"prompt": "a", "sampler": "eulr"}, "unknown sampler 'eulr'"),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_a_bad_line_is_named_and_nothing_is_drawn(
    line: Any, said: str, generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate([{"prompt": "a", "output": "first.png"}, line]) == 1
    error = capsys.readouterr().err
    assert "asked.jsonl line 2: " in error
    assert error.count("line 2") == 1
    assert said in error
    assert files() == []
    assert loader.pipeline.asked == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a fox",), "a prompt is given together with --requests"),
        (("--mix", "a:1"), "--mix is given together with --requests"),
        (("--preview",), "--preview shows one image"),
        (("-o", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_flags_that_do_not_go_with_it(
    flags: tuple[str, ...], said: str, generate: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(LINES, *flags) == 1
    assert said in capsys.readouterr().err


def test_a_batch_size_goes_with_requests(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["generate", "a fox", "--batch-size", "2"])
    assert ended.value.code == 2


def test_a_file_that_is_not_there(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["generate", "--requests", "gone.jsonl"])
    assert "gone.jsonl cannot be read" in capsys.readouterr().err
