"""The command as a process: how it ends, and that nothing is lost by ending it early."""

import gc
import sys
from pathlib import Path
from typing import Any

import pytest

import kandinsky
from kandinsky.cli import main as ending
from kandinsky.core.metadata import read_metadata
from tests.cli.fakes import FakePipeline, Loader


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr("os._exit", leave)
    return codes


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["kandinsky", *arguments])
    ending.program()


def test_an_image_is_written_before_the_process_ends(
    exits: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    collected: list[bool] = []

    def load(*args: Any, **options: Any) -> Any:
        collected.append(gc.isenabled())
        return Loader(FakePipeline())(*args, **options)

    monkeypatch.setitem(kandinsky.__dict__, "load", load)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Ended):
        call(monkeypatch, "generate", "a red fox", "-o", "fox.png")
    assert exits == [0]
    assert read_metadata("fox.png").request["prompt"] == "a red fox"
    assert collected == [False]
    assert gc.isenabled()


def test_failures_keep_their_codes(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("generate",), ("generate", "fox", "--no-such-flag"), ("generate", "fox", "-o", "fox.bmp")):
        with pytest.raises(Ended):
            call(monkeypatch, *arguments)
    assert exits == [2, 2, 1]


def test_other_commands_end_as_programs_do(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "version")
    assert not ended.value.code
    assert exits == []
