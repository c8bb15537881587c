"""Events as bars on a terminal, and nothing where nobody watches."""

import io
import sys

import pytest
from rich.console import Console

from kandinsky.core.events import Decoding, Denoising, Encoding, Finished, Result, Warned
from kandinsky.core.progress import Bars, pace


def shown(*, terminal: bool, quiet: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    with Bars(console, quiet=quiet) as bars:
        bars.start("loading")
        bars.download("unet/model.safetensors", 1.5e6, 4e6)
        bars.start("2/3")
        for event in (Encoding("text"), Denoising("prior", 25, 25), Denoising("decoder", 7, 50), Warned("cut")):
            bars.show(event)
        bars.show(Decoding())
        bars.show(Finished(Result([], [], {})))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_stage_step_and_time_left_are_shown() -> None:
    text = shown(terminal=True)
    for words in ("2/3 encoding text", "2/3 prior", "25/25", "2/3 decoder", "7/50", "2/3 decoding", "elapsed", "left"):
        assert words in text
    # The last frame belongs to the present image only.
    assert "loading" not in text.rsplit("2/3 encoding text", maxsplit=1)[-1]


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_silent_where_nobody_watches(terminal: bool, quiet: bool) -> None:
    assert shown(terminal=terminal, quiet=quiet).strip() == ""


def test_downloads_are_counted_in_megabytes() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Bars(console) as bars:
        bars.start("loading")
        bars.download("a.safetensors", 1.6e6, 4e6)
        bars.download("b.json", 300, None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "loading a.safetensors (MB)" in text
    assert "2/4" in text


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "words"),
    [
        (1.2, 24, 84, "1.2 s elapsed, 3.0 s left, 20 it/s"),
        (12.0, 6, 12, "12 s elapsed, 12 s left, 0.5 it/s"),
        (3700.0, 100, 100, "1:01:40 elapsed, 0.027 it/s"),
        (2.0, 0, None, "2.0 s elapsed"),
        (0.0, 0, 5, "0.0 s elapsed"),
    ],
)
def test_times_and_speed_as_people_read_them(elapsed: float, done: float, total: float | None, words: str) -> None:
    assert pace(elapsed, done, total) == words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_note_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from kandinsky.cli.console import err, warn

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = sys.stderr
    with Bars(err()) as bars:
        bars.show(Encoding("text"))
        bars.show(Denoising("prior", 1, 25))
        warn("the end was cut")
    before = stream.getvalue().split("note: the end was cut")[0]  # type: ignore[attr-defined]
    assert "\x1b[2K" in before[-40:], "the bars' lines are cleared before the note is written"


def test_lines_for_scripts_go_to_stdout_while_a_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=Terminal(), width=80, force_terminal=True)
    with Bars(console) as bars:
        bars.show(Encoding("text"))
        print("fox.png")
    assert capsys.readouterr().out == "fox.png\n"
