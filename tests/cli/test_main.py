"""The commands that need no model, and how quickly the command line answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kandinsky
from kandinsky.cli import doctor, models
from kandinsky.cli.main import run

SECONDS = 0.4


def test_versions_agree(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["version"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"kandinsky {kandinsky.__version__}\n"


def _cpu_seconds(*arguments: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_help_is_quick() -> None:
    libraries, ours = (
        min(_cpu_seconds(*arguments) for _ in range(3))
        for arguments in (("-c", "import typer.rich_utils"), ("-m", "kandinsky", "--help"))
    )
    # A busy or slow machine needs longer for what it prints help with, too.
    assert ours < max(SECONDS, 2 * libraries)


@pytest.mark.parametrize("command", ["generate", "models", "doctor", "train"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run([command, "--help"])
    assert ended.value.code == 0
    assert "Usage: kandinsky" in capsys.readouterr().out


def test_brackets_in_tables_are_not_taken_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "_lines", lambda _: [("Extra", "pip install 'kandinsky-diffusion[quantize]'")])
    with pytest.raises(SystemExit):
        run(["doctor"])
    assert "kandinsky-diffusion[quantize]" in capsys.readouterr().out


def test_doctor_knows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    with pytest.raises(SystemExit):
        run(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert bool(facts["cuda"]) == torch.cuda.is_available()
    assert facts["free_memory"] is None or facts["free_memory"] > 0
    with pytest.raises(SystemExit):
        run(["doctor"])
    shown = capsys.readouterr().out
    assert facts["python"] in shown
    assert "billion parameters" in shown


def test_a_model_must_fit_into_memory() -> None:
    small = models.Installed("m", "cached", "p", 10)
    assert doctor._verdict(small, 20)["fits"]
    assert not doctor._verdict(small, 11)["fits"]


def test_models_lists_what_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [models.Installed("emoji", "embedded", str(tmp_path), 56_000_000, ("few-step",))]
    monkeypatch.setattr(models, "installed", lambda: found)
    with pytest.raises(SystemExit):
        run(["models", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["bytes"] == 56_000_000
    with pytest.raises(SystemExit):
        run(["models"])
    shown = capsys.readouterr().out
    assert "emoji" in shown
    assert "56.0 MB" in shown
    assert "--lora few-step" in shown


def test_a_models_own_adapters_are_found(tmp_path: Path) -> None:
    assert models._loras(tmp_path) == ()
    (tmp_path / "lora").mkdir()
    for name in ("few-step.safetensors", "another.safetensors", "notes.txt"):
        (tmp_path / "lora" / name).touch()
    assert models._loras(tmp_path) == ("another", "few-step")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (5.01e9, "5.0 GB"), (2e12, "2.0 TB")]
)
def test_human_sizes(size: float, text: str) -> None:
    assert models.human(size) == text
