"""`kandinsky interpolate`: films, and frames that repeat themselves."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kandinsky.cli.interpolate import mixes
from kandinsky.cli.main import run
from kandinsky.core.prompts import mix
from tests.cli.fakes import Loader


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(["interpolate", *map(str, arguments)])
    return ended.value.code or 0  # type: ignore[return-value]


def test_frames_go_from_end_to_end() -> None:
    assert mixes(["a", "b"], 3) == [mix(["a", "b"], [1, 0]), mix(["a", "b"], [0.5, 0.5]), mix(["a", "b"], [0, 1])]
    assert len(mixes(["a", "b", "c"], 5)) == 9


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_film_has_every_frame(loader: Loader, suffix: str) -> None:
    assert call("a fox", "an owl", "--frames", 4, "--fps", 10, "-o", f"film.{suffix}", "--steps", 2, "--seed", 3) == 0
    assert os.listdir() == [f"film.{suffix}"]
    with Image.open(f"film.{suffix}") as film:
        assert film.n_frames == 4
        film.seek(1)
        film.load()
        assert film.info["duration"] == 100
    asked = [(one.prompt, one.seed, one.steps) for one in loader.pipeline.asked]
    assert asked == [(one, 3, 2) for one in mixes(["a fox", "an owl"], 4)]


def test_there_and_back_again(loader: Loader) -> None:
    assert call("a fox", "an owl", "--frames", 4, "-o", "film.webp", "--bounce") == 0
    with Image.open("film.webp") as film:
        assert film.n_frames == 6


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_film_of_ffmpeg(loader: Loader) -> None:
    assert call("a fox", "an owl", "--frames", 4, "-o", "film.mp4") == 0
    assert Path("film.mp4").stat().st_size > 100


def test_frames_in_a_folder_repeat_themselves(loader: Loader) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("in.png")
    assert call("in.png", "an owl", "--frames", 2, "-o", "film/") == 0
    assert sorted(os.listdir("film")) == ["frame-0001.png", "frame-0002.png"]
    with pytest.raises(SystemExit):
        run(["generate", "--from", "film/frame-0002.png", "-o", "again.png"])
    assert Path("again.png").read_bytes() == Path("film/frame-0002.png").read_bytes()


BAD = {
    "one end": (["a fox", "-o", "a.gif"], "leads nowhere"),
    "no film": (["a", "b", "-o", "a.png"], "no film"),
    "there already": (["a", "b", "-o", "there.gif"], "--overwrite replaces it"),
    "a count": (["a", "b", "-o", "a.gif", "-n", "2"], "--frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be(name: str, loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.gif").touch()
    arguments, words = BAD[name]
    assert call(*arguments) == 1
    assert words in capsys.readouterr().err
    assert loader.calls == []


def test_an_mp4_without_ffmpeg(
    loader: Loader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert call("a", "b", "-o", "a.mp4") == 1
    assert "ffmpeg" in capsys.readouterr().err
