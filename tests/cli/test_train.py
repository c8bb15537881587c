"""`kandinsky train`: which file, which changes, and what a run shows, with a run that only tells."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from kandinsky.cli.main import run
from kandinsky.cli.train import _duration, check_method, follow, overrides, recipes
from kandinsky.core.errors import ConfigError
from kandinsky.training import events

Call = tuple[Path, bool, dict[str, Any]]


def story(end: events.Event) -> list[events.Event]:
    losses = {"reconstruction": 0.125}
    return [
        events.Started("codec", 0, 20, 1_250_000),
        events.Preparing("codec", "latents", 1, 2),
        events.Progress("codec", 10, 20, 0.5, losses, 0.01, 300.0, 61.0),
        events.Progress("codec", 11, 20, 0.55, losses, 0.01, 300.0, 60.0),
        events.Measured("codec", 11, {"psnr": 25.5}),
        events.Sampled("codec", 11, Path("sheet.png")),
        events.Saved("codec", 11, Path("checkpoint")),
        events.Warned("a checkpoint was passed over"),
        end,
    ]


FINISHED = events.Finished("codec", 20, Path("out/codec"), {"reconstruction": 0.1})
STOPPED = events.Stopped("codec", 12, "interrupted")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int | str | None, list[Call]]]:
    def call(*arguments: str, end: events.Event = FINISHED) -> tuple[int | str | None, list[Call]]:
        calls: list[Call] = []

        def run_config(
            path: Path, *, resume: bool = False, overrides: dict[str, Any] | None = None
        ) -> Iterator[events.Event]:
            calls.append((path, resume, overrides or {}))
            yield from story(end)

        def export(path: Path, *, overrides: dict[str, Any] | None = None) -> Path:
            calls.append((path, False, {"exported": overrides}))
            return Path("out/checkpoint")

        api = ModuleType("kandinsky.training.api")
        api.run_config = run_config  # type: ignore[attr-defined]
        api.export = export  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kandinsky.training.api", api)
        with pytest.raises(SystemExit) as ended:
            run(["train", *arguments])
        return ended.value.code, calls

    return call


def test_flags_reach_the_run(train: Any) -> None:
    flags = ["--data", "images", "--out", "there", "--seed", "3", "--threads", "2", "--resume"]
    changes = {"data": {"folder": Path("images")}, "out": Path("there"), "seed": 3, "threads": 2}
    assert train("run.toml", *flags) == (0, [(Path("run.toml"), True, changes)])
    assert train("run.toml") == (0, [(Path("run.toml"), False, {})])


def test_only_given_flags_change_the_file() -> None:
    assert overrides(data=None, out=None, seed=0, device=None, threads=None) == {"seed": 0}


def test_export_only_trains_nothing(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("run.toml", "--export-only", "--out", "there")
    assert train(*given) == (0, [(Path("run.toml"), False, {"exported": {"out": Path("there")}})])
    assert capsys.readouterr().out == "out/checkpoint\n"


def test_a_finished_model_is_named_with_what_to_do_next() -> None:
    console = Console(file=io.StringIO(), width=200)
    assert follow([FINISHED, events.Exported(Path("out/checkpoint"))], console, quiet=False)
    assert "kandinsky generate PROMPT --model out/checkpoint" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_run_learns_from_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=200)
    found = events.LearnsFrom("lora", 3, 3, 1, {"hidden": 2}, {"64x64": 2, "96x64": 1}, 1)
    assert follow([found, FINISHED], console, quiet=False)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.splitlines()[0] == (
        "lora learns from 3 images with 3 captions; 1 held out; left out: 2 hidden; shapes: 64x64 (2), 96x64 (1); "
        "1 caption too long, cut by the text encoder"
    )


def test_the_command_that_draws_can_be_typed() -> None:
    console = Console(file=io.StringIO(), width=200)
    follow([events.Exported(Path("a run/<cat-toy>.safetensors"), "--words", ("b",))], console, quiet=False)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "kandinsky generate PROMPT --words b --words 'a run/<cat-toy>.safetensors'" in said


def test_a_plan_needs_no_data() -> None:
    nothing = dict.fromkeys(("data", "prompt", "class_prompt", "token", "init_from"))
    check_method("lora", nothing, planned=True)
    with pytest.raises(ConfigError, match="needs --data"):
        check_method("lora", nothing)
    with pytest.raises(ConfigError, match="needs --token and --init-from"):
        check_method("textual_inversion", nothing, planned=True)


def test_a_stopped_run_ends_as_ctrl_c_does(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("run.toml", end=STOPPED)[0] == 130
    assert "continue with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["run.toml", "--recipe", "emoji"]])
def test_either_a_file_or_a_recipe(train: Any, arguments: list[str]) -> None:
    assert train(*arguments) == (2, [])


def test_unknown_recipes(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--recipe", "emojy") == (1, [])
    said = " ".join(capsys.readouterr().err.split())
    assert "There is no recipe 'emojy'. Did you mean 'emoji'? See kandinsky train --list." in said
    assert train("--recipe", "zzz") == (1, [])
    said = " ".join(capsys.readouterr().err.split())
    assert "There is no recipe 'zzz'. See kandinsky train --list." in said


def test_recipes_are_found_by_name(train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(path.is_file() for path in recipes().values())
    monkeypatch.setattr("kandinsky.cli.train.recipes", lambda: {"mine": tmp_path / "mine.toml"})
    assert train("--recipe", "mine") == (0, [(tmp_path / "mine.toml", False, {})])


def test_lines_where_nobody_watches() -> None:
    console = Console(file=io.StringIO(), width=200)
    assert follow(story(FINISHED), console, quiet=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "codec begins: 20 steps, 1.25 million trainable parameters" in text
    assert "codec 50.0% step 10, reconstruction 0.125, 300 images/s, 0:01:01 left" in text
    assert "step 11," not in text, "one line in half a minute is enough"
    assert "psnr 25.5" in text
    assert "codec finished after 20 steps: reconstruction 0.1; its checkpoints are in out/codec" in text


def test_bars_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    assert not follow(story(STOPPED), console, quiet=False)
    assert "step 11" in console.file.getvalue()  # type: ignore[attr-defined]


def test_quiet_runs_say_nothing() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    assert follow(story(FINISHED), console, quiet=True)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_errors_of_a_run_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_config(*_: object, **__: object) -> Iterator[events.Event]:
        raise ConfigError("there is no setting 'stepz'.", "Did you mean 'steps'?")

    api = ModuleType("kandinsky.training.api")
    api.run_config = run_config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kandinsky.training.api", api)
    with pytest.raises(SystemExit) as ended:
        run(["train", "run.toml"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: there is no setting 'stepz'. Did you mean 'steps'?\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (3725.4, "1:02:05"), (float("inf"), "unknown time"), (float("nan"), "unknown time")],
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
