"""Events as bars on a terminal, and nothing where nobody watches."""

import io

import pytest
from rich.console import Console

from kandinsky.cli.progress import Bars
from kandinsky.core.events import Decoding, Denoising, Encoding, Finished, Result, Warned


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
    for words in ("2/3 encoding text", "2/3 prior", "25/25", "2/3 decoder", "7/50", "2/3 decoding", "left"):
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
