"""`kandinsky generate`: errors and what it says, on a pipeline without weights."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from kandinsky.cli.main import run
from kandinsky.core.errors import RequestError
from tests.cli.fakes import Command, Loader


def files() -> list[str]:
    return sorted(os.listdir())


BAD = {
    "size": (["fox", "--width", "0"], "width 0"),
    "steps": (["fox", "--steps", "5000"], "steps 5000"),
    "strength": (["fox", "--strength", "1.5"], "strength 1.5"),
    "text as image": (["fox", "--image", "notes.png"], "notes.png is not an image"),
    "missing image": (["fox", "--image", "gone.png"], "no image gone.png"),
    "file as folder": (["fox", "-o", "notes.png/fox.png"], "no folder notes.png"),
    "file as a folder's folder": (["fox", "-o", "notes.png/a/fox.png"], "notes.png is a file"),
    "no suffix": (["fox", "-o", "fox"], "Name it fox.png, or fox/ for a folder"),
    "there already": (["fox", "-o", "bare.png"], "bare.png exists already. --overwrite replaces it."),
    "unknown pattern": (["fox", "-o", "{model}.png"], "Use {prompt}, {seed} and {index}"),
    "one name for all": (["fox", "-n", "2", "-o", "{prompt}.png"], "Put {index} or {seed} into it"),
    "two to stdout": (["fox", "-n", "2", "-o", "-"], "2 images cannot go to stdout"),
    "json and stdout": (["fox", "--json", "-o", "-"], "both write to stdout"),
    "no size": (["fox", "--size", "64"], "Write it as WIDTHxHEIGHT"),
    "no axis": (["fox", "--xy", "steps=1,2", "colour=a,b"], "no field 'colour'"),
    "one axis twice": (["fox", "--xy", "steps=1,2", "steps=3"], "steps twice"),
    "no numbers": (["fox", "--xy", "steps=1,x", "seed=3"], "no number"),
    "no list": (["gone.txt"], "gone.txt cannot be read"),
    "wrong suffix": (["fox", "-o", "fox.bpm"], "fox.bpm has no image format"),
    "mix and prompt": (["fox", "--mix", "a:1"], "'fox' is given together with --mix"),
    "from a bare image": (["--from", "bare.png"], "does not hold the request"),
    "from nothing": (["--from", "gone.png"], "no image gone.png"),
    "seed": (["fox", "--seed", "-1"], "seed -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = BAD[name]
    Path("notes.png").write_text("not an image")
    Image.new("RGB", (4, 4)).save("bare.png")
    assert generate(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert files() == ["bare.png", "notes.png"]
    assert loader.calls == [], "bad input is found before weights are loaded"


@pytest.mark.parametrize("arguments", [[], ["fox", "--widht", "3"], ["fox", "--steps", "many"]])
def test_wrong_usage(arguments: list[str], generate: Command, loader: Loader) -> None:
    assert generate(*arguments) == 2
    assert files() == []


def test_quiet_says_nothing(generate: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert generate("fox", "-o", "fox.png", "--quiet") == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_debug_shows_where(loader: Loader) -> None:
    with pytest.raises(RequestError):
        run(["generate", "fox", "--width", "0", "--debug"])
    with pytest.raises(SystemExit):
        run(["generate", "-o", "a.png", "--", "--debug"])
    assert loader.pipeline.asked[0].prompt == "--debug"


def test_a_list_of_whole_requests_is_for_batch(generate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text("prompt,steps\na hat,3\n")
    assert generate("rows.csv") == 1
    assert "Use kandinsky batch rows.csv FOLDER" in capsys.readouterr().err


OTHERS = {
    "num_inference_steps": "--steps",
    "cfg-scale": "--guidance-scale",
    "negative": "--negative-prompt",
    "init-image": "--image",
}


@pytest.mark.parametrize("flag", OTHERS)
def test_flags_of_other_tools_are_answered_with_ours(
    flag: str, generate: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("fox", f"--{flag}", "3") == 2
    assert f"It is called {OTHERS[flag]} here" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["a red fox"], 'kandinsky generate "a red fox"'), (["gen"], "Did you mean 'generate'")):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code == 2
        assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_verbose_shows_the_log(generate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("kandinsky")
    log.disabled = False
    try:
        assert generate("fox", "--verbose") == 0
        log.info("loaded everything")
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert "loaded everything" in capsys.readouterr().err
