"""Settings that are not typed: variables and the configuration file, and who goes first."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import kandinsky
from kandinsky.cli.main import run
from tests.cli.fakes import FakePipeline, Loader

Command = Callable[..., int]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config" / "config.toml"
    file.parent.mkdir()
    monkeypatch.setenv("KANDINSKY_CONFIG", str(file))
    file.write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader(FakePipeline())
    monkeypatch.setitem(kandinsky.__dict__, "load", loader)
    return loader


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run([*map(str, arguments)])
    return ended.value.code or 0  # type: ignore[return-value]


def test_what_is_typed_goes_before_variables_and_these_before_the_file(
    file: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("steps = 2\nguidance-scale = 3.5\nmodel = 'm'\n[generate]\nwidth = 24\n[batch]\nsteps = 9\n")
    monkeypatch.setenv("KANDINSKY_STEPS", "3")
    assert call("generate", "fox") == 0
    assert call("generate", "fox", "--steps", 4) == 0
    monkeypatch.delenv("KANDINSKY_STEPS")
    assert call("generate", "fox", "--model", "other") == 0
    asked = [(one.steps, one.guidance_scale, one.width) for one in loader.pipeline.asked]
    assert asked == [(3, 3.5, 24), (4, 3.5, 24), (2, 3.5, 24)]
    assert [model for model, _ in loader.calls] == ["m", "m", "other"]


def test_an_image_is_repeated_as_it_was_whatever_is_set(
    file: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("generate", "fox", "--steps", 2, "--model", "m", "-o", "a.png", "--seed", 1) == 0
    file.write_text("steps = 3\nmodel = 'other'\ndtype = 'float16'\n")
    monkeypatch.setenv("KANDINSKY_GUIDANCE_SCALE", "9")
    assert call("generate", "--from", "a.png", "-o", "b.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert loader.calls[0] == loader.calls[1]
    assert call("generate", "--from", "a.png", "-o", "c.png", "--steps", 4) == 0
    assert loader.pipeline.asked[2].steps == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 3", "there is no setting 'stepz'. Did you mean 'steps'"),
        ("[generat]\nsteps = 3", "there is no table [generat]. Did you mean 'generate'"),
        ("[generate]\nworkers = 3", "there is no setting 'workers'"),
        ("steps = ", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be(
    file: Path, loader: Loader, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert call("generate", "fox") == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert loader.calls == []


def test_a_setting_of_another_command_is_no_error(file: Path, loader: Loader) -> None:
    file.write_text("workers = 2\nfps = 5.0\nsteps = 2\n")
    assert call("generate", "fox") == 0


def test_config_says_what_is_set_and_where(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("steps = 2\n[batch]\nbatch-size = 8\n")
    monkeypatch.setenv("KANDINSKY_DEVICE", "cpu")
    monkeypatch.setenv("KANDINSKY_STEPZ", "3")
    assert call("config", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(file)
    assert said["settings"] == {
        "steps": {"value": 2, "from": str(file)},
        "batch.batch_size": {"value": 8, "from": str(file)},
        "device": {"value": "cpu", "from": "KANDINSKY_DEVICE"},
    }
    assert said["unknown"] == ["KANDINSKY_STEPZ"]
    assert call("config") == 0
    shown = capsys.readouterr().out
    assert "KANDINSKY_STEPZ is no setting. Did you mean 'steps'" in shown


def test_a_template_to_begin_with(file: Path, loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "--init") == 1
    file.unlink()
    assert call("config", "--init") == 0
    assert call("generate", "fox") == 0
    file.write_text("\n".join(line.removeprefix("# ") for line in file.read_text().splitlines()[3:]))
    assert call("config") == 0, "every line of the template is a setting"
