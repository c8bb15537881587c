"""What the command line answers to usual mistakes: each message names what was typed and what to type instead."""

from collections.abc import Callable
from pathlib import Path

import pytest

import kandinsky
from kandinsky.cli import train
from kandinsky.cli.main import run
from kandinsky.core.errors import ConfigError, RequestError
from kandinsky.core.prompts import parse_mix
from kandinsky.engine.embedded import embedded_folder
from kandinsky.training.config.run import read_config
from tests.cli.fakes import FakePipeline, Loader

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on a pipeline without weights; returns its exit code and all it said, on one line."""
    monkeypatch.setitem(kandinsky.__dict__, "load", Loader(FakePipeline()))
    monkeypatch.chdir(tmp_path)

    def called(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            run([*map(str, arguments)])
        found = capsys.readouterr()
        return ended.value.code or 0, " ".join((found.out + found.err).replace("│", " ").split())  # type: ignore[return-value]

    return called


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--from", "a.png", "--from", "b.png"),
        ("generate", "a fox", "--seed", 1, "-s", 2),
        ("generate", "a fox", "-o", "a.png", "--output", "b.png"),
        ("batch", "a.jsonl", "out", "--steps", 1, "--steps", 2),
        ("train", "--method", "lora", "--out", "a", "--out", "b"),
        ("convert", "a", "b", "--to", "original", "--to", "diffusers"),
        ("serve", "--port", 1, "--port", 2),
    ],
)
def test_a_flag_with_one_value_is_given_once(call: Command, arguments: tuple[object, ...]) -> None:
    code, said = call(*arguments)
    assert code == 2
    assert "is given twice. Give it once." in said


def test_flags_that_repeat_may_repeat(call: Command) -> None:
    assert call("generate", "a", "-q", "-q", "-o", "a.png", "--words", "a", "--words", "b")[0] == 0
    assert call("generate", "--mix", "a:0.5", "--mix", "b:0.5", "-o", "b.png")[0] == 0


def test_an_empty_prompt_is_spoken_of(call: Command) -> None:
    assert "a prompt is empty" in call("generate", " ", "-o", "a.png")[1]
    assert "a prompt is empty" not in call("generate", "a", "-o", "b.png")[1]
    assert "a prompt is empty" not in call("generate", "", "-q", "-o", "c.png")[1]


def test_a_weight_of_a_mix_that_is_no_number(call: Command) -> None:
    code, said = call("generate", "--mix", "dog:x")
    assert code == 1
    assert "'dog:x' has the weight 'x', which is no number. Write such as dog:0.5" in said
    for part in ("dog:", "dog:1,5", "dog:nan", "dog:50%"):
        with pytest.raises(RequestError, match="which is no number"):
            parse_mix([part])
    assert parse_mix(["a scene: a dog"]).items == ("a scene: a dog",)
    assert parse_mix(["dog:x:0.5"]).items == ("dog:x",)


def test_help_is_a_command(call: Command) -> None:
    assert "generate" in call("help")[1]
    code, said = call("help", "show")
    assert code == 0
    assert "Print what the file of an image says" in said


def test_convert_knows_the_embedded_model_and_its_layouts(call: Command) -> None:
    assert (
        "There is no layout 'origina'. Did you mean 'original'?"
        in call("convert", "nowhere", "o", "--to", "origina")[1]
    )
    said = call("convert", "emoji", "o", "--to", "original")[1]
    assert "neither a folder" not in said
    assert str(embedded_folder())[-20:] in said


def test_a_run_that_is_not_there(call: Command) -> None:
    code, said = call("train", "3-lra")
    assert code == 1
    assert (
        "There is no file 3-lra, and no recipe of that name. Did you mean '3-lora'? See kandinsky train --list." in said
    )
    assert "no such file" in call("train", "gone.toml")[1]


def test_settings_of_flags_are_named_as_flags(call: Command, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    code, said = call("train", "--method", "lora", "--data", "images", "--target", "unet")
    assert code == 1
    assert "--target: input should be 'decoder', 'prior' or 'both' (got 'unet')" in said
    assert "--size: " in call("train", "--method", "lora", "--data", "images", "--size", -1)[1]
    assert "--steps: " in call("train", "--method", "lora", "--data", "images", "--steps", 0)[1]


def test_another_model_is_not_given_the_files_prior() -> None:
    assert train.overrides(model="emoji")["model"] == {"name": "emoji", "prior": None}
    assert train.overrides(model="emoji", prior="p")["model"] == {"name": "emoji", "prior": "p"}
    assert "model" not in train.overrides(steps=3)


FLAT = {"method": "lora", "out": "o", "data": {"folder": "."}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**FLAT, "max_stps": 3}, "no setting 'max_stps'. Did you mean 'max_steps'?"),
        ({"out": "o", "data": {"folder": "."}, "max_stps": 3}, "no setting 'max_stps'. Did you mean 'max_steps'?"),
        ({"out": "o", "stage": [FLAT], "max_steps": 3}, r"It is a setting of a stage: write it below \[\[stage\]\]"),
        ({"out": "o", "devise": "cpu"}, "no setting 'devise'. Did you mean 'device'?"),
    ],
)
def test_unknown_settings_have_a_nearest_one(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(values)
