"""`generate` as a person meets it: warnings, progress, and images that are no numbers."""

import io
import logging
import sys
import warnings
from typing import Any

import pytest

import kandinsky
from kandinsky.core import progress
from kandinsky.core.errors import KandinskyError, KandinskyWarning
from kandinsky.engine.pipeline import Pipeline
from tests.tiny import Checkpoints

SETTINGS: dict[str, Any] = {"steps": 2, "prior_steps": 2, "seed": 1}
LONG = "a red fox " * 20


@pytest.fixture
def pipe(tiny: Checkpoints) -> Pipeline:
    return tiny.kept("text2img")


def test_a_prompt_that_was_cut_is_warned_of_and_in_the_result(pipe: Pipeline) -> None:
    with pytest.warns(KandinskyWarning, match="was not read") as said:
        result = pipe.generate(LONG, **SETTINGS)
    (warning,) = said
    assert warning.filename == __file__, "it points at the caller"
    (message,) = result.warnings
    assert str(warning.message) == message
    for words in ("for the prior", "tokens", "Shorten it"):
        assert words in message


def test_a_warning_is_in_the_results_that_it_concerns(pipe: Pipeline) -> None:
    requests = [kandinsky.Request(one, **SETTINGS) for one in ("a fox", LONG, kandinsky.mix([LONG, "a cat"]))]
    with pytest.warns(KandinskyWarning):
        short, long, mixed = pipe.generate_batch(requests)
    assert short.warnings == []
    assert len(long.warnings) == len(mixed.warnings) == 1


def test_a_stream_warns_by_events_alone(pipe: Pipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        *_, last = pipe.stream(LONG, **SETTINGS)
    assert isinstance(last, kandinsky.Finished)
    assert len(last.result.warnings) == 1


def test_words_cut_in_two_count_as_not_read(pipe: Pipeline) -> None:
    text = " ".join(f"internationalisation{number}" for number in range(30))
    with pytest.warns(KandinskyWarning) as said:
        pipe.generate(text, **SETTINGS)
    message = str(said[0].message)
    assert "'internationalisation" in message.split("tokens:")[1]


def test_a_very_long_prompt_makes_a_short_message(pipe: Pipeline) -> None:
    with pytest.warns(KandinskyWarning) as said:
        pipe.generate("a red fox " * 500, **SETTINGS)
    assert len(str(said[0].message)) < 600


@pytest.mark.parametrize(("width", "height"), [(160, 160), (64, 16), (64, 256)])
def test_a_size_far_from_the_models_own_is_warned_of(pipe: Pipeline, width: int, height: int) -> None:
    own = "{width} x {height}".format(**pipe.model.defaults)
    with pytest.warns(KandinskyWarning, match=rf"{width} x {height} pixels are far from the model's own size, {own}"):
        result = pipe.generate("a fox", width=width, height=height, **SETTINGS)
    assert len(result.warnings) == 1


def test_the_models_own_size_is_no_news(pipe: Pipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe.generate("a fox", **SETTINGS).warnings == []
        assert pipe.generate("a fox", width=64, height=96, **SETTINGS).warnings == []


def test_progress_is_a_bar_on_a_terminal(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    quiet = pipe.generate("a fox", **SETTINGS)
    assert sys.stderr.getvalue() == ""
    shown = pipe.generate("a fox", progress=True, **SETTINGS)
    text = sys.stderr.getvalue()
    assert "decoder" in text
    assert "elapsed" in text
    assert shown[0].tobytes() == quiet[0].tobytes()


class Shell:
    """Stands for IPython in a kernel."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.config = {"IPKernelApp": {}}

    def get_ipython(self) -> "Shell":
        return self

    def HTML(self, text: str) -> str:  # noqa: N802
        return text

    def display(self, text: str, display_id: bool) -> "Shell":
        self.shown.append(text)
        return self

    def update(self, text: str) -> None:
        self.shown.append(text)


def test_progress_is_a_bar_in_a_notebook(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", shell)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", shell)  # type: ignore[arg-type]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.0)
    pipe.generate("a fox", progress=True, **SETTINGS)
    assert any('<progress value="2" max="2">' in text and "decoder 2/2" in text for text in shell.shown)
    assert shell.shown[-1] == "", "it is taken away at the end"


def test_images_that_are_no_numbers_are_an_error(pipe: Pipeline) -> None:
    with pytest.raises(KandinskyError, match="not finite"):
        pipe.generate("a fox", guidance_scale=1e30, **SETTINGS)


def test_a_pipeline_says_what_it_is(pipe: Pipeline) -> None:
    assert "torch.float32 on cpu" in repr(pipe)


def test_loading_and_drawing_are_logged(
    tiny: Checkpoints, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another library that sets up logging switches off the loggers that are there.
    monkeypatch.setattr(logging.getLogger("kandinsky"), "disabled", False)
    with caplog.at_level(logging.INFO, logger="kandinsky"):
        kandinsky.load(tiny.combined, device="cpu").generate("a fox", **SETTINGS)
    said = " ".join(caplog.messages)
    assert str(tiny.combined) in said
    assert "float32 on cpu" in said
    assert "images per request [1]" in said
