"""`kandinsky show`, and `--from` an image of another tool."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kandinsky.cli.main import run
from tests.cli.fakes import Loader
from tests.core.test_foreign_metadata import PARAMETERS, READ, WORKFLOW, png

Command = Callable[..., int]


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run([*map(str, arguments)])
    return ended.value.code or 0  # type: ignore[return-value]


def test_show_our_own(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("generate", "a [red] fox", "--seed", 3, "--model", "m", "--dtype", "float32", "-o", "a.png", "-q") == 0
    assert call("show", "a.png") == 0
    text = capsys.readouterr().out
    for words in ("a [red] fox", "a.png (PNG, 16 x 16)", "kandinsky", "float32", "sampler", "ddpm"):
        assert words in text
    assert call("show", "a.png", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["request"]["seed"], said["settings"]) == ("m", 3, {"dtype": "float32"})


def test_show_another_tools(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    png(Path("a.png"), parameters=PARAMETERS)
    assert call("show", "a.png") == 0
    text = capsys.readouterr().out
    for words in (
        "A Stable Diffusion web interface",
        "v1-5-pruned",
        "blurry, low quality",
        "DPM++ 2M Karras",
        "Clip skip",
    ):
        assert words in text


def test_show_nothing(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("bare.png")
    assert call("show", "bare.png") == 1
    assert "does not say how it was made" in capsys.readouterr().err
    assert call("show", "gone.png") == 1


def test_from_another_tool_says_what_differs(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    png(Path("a.png"), parameters=PARAMETERS)
    assert call("generate", "--from", "a.png", "-o", "b.png", "--steps", 5) == 0
    (asked,) = loader.pipeline.asked
    assert (asked.steps, asked.sampler, asked.seed, asked.width) == (5, "dpmpp_2m", 1234567890, 512)
    assert (asked.guidance_scale, asked.negative_prompt) == (7.5, "blurry, low quality")
    said = " ".join(capsys.readouterr().err.split())
    for words in ("'v1-5-pruned'", "strength 0.7", "--image", "Clip skip 2"):
        assert words in said
    assert call("generate", "--from", "b.png", "-o", "c.png") == 0
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes(), "it is ours from then on"


def test_a_sampler_that_is_not_here(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    png(Path("a.png"), parameters="a fox\nSteps: 20, Sampler: Restart, Seed: 3")
    assert call("generate", "--from", "a.png", "-o", "b.png") == 0
    assert "'Restart' is not here" in capsys.readouterr().err
    assert loader.pipeline.asked[0].sampler == "ddpm"


def test_weights_of_another_tool_are_repeated(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    png(Path("a.png"), parameters=PARAMETERS)
    assert call("generate", "--from", "a.png", "-o", "b.png") == 0
    assert (loader.pipeline.asked[0].prompt_weights, loader.pipeline.asked[0].prompt) == (True, READ["prompt"])
    assert "read as weights (--prompt-weights)" in capsys.readouterr().err
    assert call("generate", "--from", "b.png", "-o", "c.png") == 0
    assert loader.pipeline.asked[1].prompt_weights
    assert call("generate", "--from", "a.png", "--no-prompt-weights", "-o", "d.png") == 0
    assert not loader.pipeline.asked[2].prompt_weights
    assert call("generate", "a (fox", "--from", "a.png", "-o", "e.png") == 0
    assert (loader.pipeline.asked[3].prompt_weights, loader.pipeline.asked[3].prompt) == (False, "a (fox")


def test_weights_that_cannot_be_repeated(loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    png(Path("a.png"), parameters="a (red fox\nSteps: 20, Sampler: Euler a, Seed: 3")
    assert call("generate", "--from", "a.png", "-o", "b.png") == 0
    assert (loader.pipeline.asked[0].prompt_weights, loader.pipeline.asked[0].prompt) == (False, "a (red fox")
    assert "Its weights cannot be read" in capsys.readouterr().err


def test_brackets_of_comfyui_are_no_weights(loader: Loader) -> None:
    workflow = {**WORKFLOW, "11": {"inputs": {"value": "a (red) [fox]"}}}
    png(Path("a.png"), prompt=json.dumps(workflow))
    assert call("generate", "--from", "a.png", "-o", "b.png", "-q") == 0
    assert (loader.pipeline.asked[0].prompt_weights, loader.pipeline.asked[0].prompt) == (True, r"a (red) \[fox\]")


def test_our_own_text_without_our_data(loader: Loader) -> None:
    for count, (switch, wanted) in enumerate([("--prompt-weights", True), ("--no-prompt-weights", False)]):
        assert call("generate", "a (red) fox", switch, "--seed", 3, "-o", f"{count}.png", "-q") == 0
        with Image.open(f"{count}.png") as image:
            png(Path("bare.png"), parameters=image.info["parameters"])
        assert call("generate", "--from", "bare.png", "-o", f"again{count}.png", "-q") == 0
        assert loader.pipeline.asked[-1].prompt_weights is wanted
