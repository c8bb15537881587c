"""`kandinsky generate`: names, repeats, previews, interruptions and errors, on a pipeline without weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kandinsky
from kandinsky.cli.generate import parse_mix
from kandinsky.cli.main import run
from kandinsky.cli.outputs import slug
from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import read_metadata
from kandinsky.core.requests import mix
from tests.cli.fakes import DEFAULTS, FakePipeline, Loader

Command = Callable[..., int]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    loader = Loader(FakePipeline())
    monkeypatch.setitem(kandinsky.__dict__, "load", loader)
    monkeypatch.chdir(tmp_path)
    return loader


@pytest.fixture
def generate(loader: Loader) -> Command:
    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            run(["generate", *map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


def files() -> list[str]:
    return sorted(os.listdir())


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_an_image_and_nothing_else(generate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("a red fox", "-o", "fox.png", "--seed", 7) == 0
    assert files() == ["fox.png"]
    assert pixels("fox.png").shape == (16, 16, 3)
    captured = capsys.readouterr()
    assert captured.out == "fox.png\n"
    assert captured.err.count("cut off") == 1


def test_default_names_replace_nothing(generate: Command) -> None:
    for _ in range(3):
        assert generate("A Red  fox, please!", "--seed", 7) == 0
    assert files() == ["a-red-fox-please-7-2.png", "a-red-fox-please-7-3.png", "a-red-fox-please-7.png"]


def test_without_a_seed_the_name_tells_it(generate: Command, loader: Loader) -> None:
    assert generate("fox") == 0
    assert files() == [f"fox-{loader.pipeline.asked[0].seed}.png"]


def test_several_images_are_numbered(generate: Command, loader: Loader) -> None:
    assert generate("a cat", "a dog", "--count", 2, "--seed", 5, "-o", "pets.jpg", "--negative-prompt", "fog") == 0
    assert files() == ["pets-0001.jpg", "pets-0002.jpg", "pets-0003.jpg", "pets-0004.jpg"]
    asked = [(one.prompt, one.seed, one.count, one.negative_prompt) for one in loader.pipeline.asked]
    assert asked == [("a cat", 5, 1, "fog"), ("a cat", 6, 1, "fog"), ("a dog", 7, 1, "fog"), ("a dog", 8, 1, "fog")]
    assert len(loader.calls) == 1, "one load serves all images"


def test_a_folder_as_output(generate: Command) -> None:
    Path("out").mkdir()
    assert generate("a cat", "-n", 2, "--seed", 1, "-o", "out") == 0
    assert sorted(os.listdir("out")) == ["a-cat-1.png", "a-cat-2.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_repeating_gives_the_same_pixels(generate: Command, loader: Loader, suffix: str) -> None:
    first = f"first.{suffix}"
    flags = ["--steps", 3, "--guidance-scale", 2.5, "--width", 24, "--negative-prompt", "fog", "--eta", 0.5]
    assert generate("a cat", "a dog", "-n", 2, *flags, "--model", "m", "--dtype", "float32", "-o", first) == 0
    last = f"first-0004.{suffix}"
    assert generate("--from", last, "-o", f"again.{suffix}") == 0
    assert Path(f"again.{suffix}").read_bytes() == Path(last).read_bytes()
    assert loader.calls[0] == loader.calls[1] == ("m", {"dtype": "float32"})


def test_repeating_with_changes(generate: Command, loader: Loader) -> None:
    assert generate("a cat", "--seed", 3, "--steps", 3, "--model", "m", "--revision", "r", "-o", "a.png") == 0
    assert generate("--from", "a.png", "-o", "b.png", "--steps", 2, "a dog", "--model", "other") == 0
    changed = loader.pipeline.asked[1]
    assert (changed.prompt, changed.seed, changed.steps) == ("a dog", 3, 2)
    assert loader.calls[1] == ("other", {}), "settings of another model are not carried over"
    assert read_metadata("b.png").request["steps"] == 2


def test_another_sampler_does_not_inherit_the_noise_of_the_first(generate: Command, loader: Loader) -> None:
    flags = ["--sampler", "ddim", "--eta", 0.5, "--model", "m", "--behaviour", "b", "-o", "a.png"]
    assert generate("a cat", "--seed", 3, *flags) == 0
    assert generate("--from", "a.png", "-o", "b.png", "--sampler", "ddpm") == 0
    assert loader.pipeline.asked[1].eta == DEFAULTS["eta"]
    assert loader.calls[0] == loader.calls[1] == ("m", {"behaviour": "b"})
    assert generate("--from", "a.png", "-o", "c.png", "--sampler", "ddim", "--eta", 0.25) == 0
    assert loader.pipeline.asked[2].eta == 0.25


def test_input_images_are_found_again_or_named(generate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), "red").save("in.png")
    Image.new("L", (8, 8), 255).save("mask.png")
    assert generate("a hat", "--image", "in.png", "--mask", "mask.png", "--strength", 0.5, "-o", "a.png") == 0
    assert generate("--from", "a.png", "-o", "b.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    os.rename("in.png", "moved.png")
    assert generate("--from", "a.png", "-o", "c.png") == 1
    assert "in.png is missing" in capsys.readouterr().err
    assert generate("--from", "a.png", "-o", "c.png", "--image", "moved.png") == 0
    assert not Path("d.png").exists()


def test_mixes(generate: Command, loader: Loader) -> None:
    Image.new("RGB", (8, 8), "red").save("cat.png")
    assert generate("--mix", "a dog:0.25", "--mix", "cat.png:0.75", "--seed", 1) == 0
    assert files() == ["a-dog-cat-1.png", "cat.png"]
    assert loader.pipeline.asked[0].prompt == mix(["a dog", Path("cat.png")], [0.25, 0.75])
    assert generate("--from", "a-dog-cat-1.png", "-o", "again.png") == 0
    assert Path("again.png").read_bytes() == Path("a-dog-cat-1.png").read_bytes()


def test_mix_parts(loader: Loader) -> None:
    assert parse_mix(["a: b:1e-1", "c:2"]) == mix(["a: b", "c"], [0.1, 2])
    assert parse_mix(["a", "b: c"]) == mix(["a", "b: c"])
    with pytest.raises(RequestError, match="'b' has no weight"):
        parse_mix(["a:1", "b"])
    with pytest.raises(RequestError, match=r"no image gone\.png"):
        parse_mix(["gone.png:1"])
    with pytest.raises(RequestError, match="empty"):
        parse_mix([":1"])


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("красное яблоко", "красное-яблоко"),
        ("红苹果", "红苹果"),
        ("हरा सेब", "हरा-सेब"),
        ("../../etc/passwd", "etc-passwd"),
        ("🍎", "image"),
        ("", "image"),
        ("one two three four five six seven eight nine ten", "one-two-three-four-five-six-seven-eight"),
        ("x" * 300, "x" * 40),
    ],
)
def test_slugs(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_preview_is_updated_and_removed(generate: Command, loader: Loader) -> None:
    seen = {}

    def look(step: int) -> None:
        if Path("fox.preview.png").exists():
            seen[step] = pixels("fox.preview.png").shape

    loader.pipeline.on_step = look
    assert generate("fox", "-o", "fox.png", "--preview") == 0
    assert seen == {2: (4, 4, 3), 3: (4, 4, 3), 4: (4, 4, 3)}
    assert files() == ["fox.png"]
    seen.clear()
    assert generate("fox", "-o", "fox.png") == 0
    assert seen == {}, "no preview unless asked for"


def test_ctrl_c_leaves_finished_images_only(generate: Command, loader: Loader) -> None:
    def interrupt(step: int) -> None:
        if len(loader.pipeline.asked) == 2 and step == 3:
            raise KeyboardInterrupt

    loader.pipeline.on_step = interrupt
    assert generate("fox", "-n", 3, "-o", "fox.png", "--preview") == 130
    assert files() == ["fox-0001.png"]


def test_ctrl_c_between_events_closes_the_stream(
    generate: Command, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kandinsky.cli.generate._write_preview", interrupt)
    assert generate("fox", "-o", "fox.png", "--preview") == 130
    assert loader.pipeline.closed == 1
    assert files() == []


SLOW_PROGRAM = """
import sys, time, kandinsky
from kandinsky.cli.main import run
from tests.cli.fakes import DEFAULTS, FakePipeline, Loader

def slowly(step):
    print("step", step, flush=True)
    time.sleep(0 if step == 1 else 60)

kandinsky.__dict__["load"] = Loader(FakePipeline(on_step=slowly))
run(["generate", "fox", "-o", "fox.png", "--preview", "--steps", "20"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_a_real_signal(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == ["step 1\n", "step 2\n"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []


BAD = {
    "size": (["fox", "--width", "0"], "width 0"),
    "steps": (["fox", "--steps", "5000"], "steps 5000"),
    "strength": (["fox", "--strength", "1.5"], "strength 1.5"),
    "text as image": (["fox", "--image", "notes.png"], "notes.png is not an image"),
    "missing image": (["fox", "--image", "gone.png"], "no image gone.png"),
    "missing folder": (["fox", "-o", "gone/fox.png"], "no folder gone"),
    "file as folder": (["fox", "-o", "notes.png/fox.png"], "no folder notes.png"),
    "no suffix": (["fox", "-o", "fox"], "fox.png"),
    "wrong suffix": (["fox", "-o", "fox.bpm"], "fox.bpm has no image format"),
    "mix and prompt": (["fox", "--mix", "a:1"], "'fox' is given together with --mix"),
    "from a bare image": (["--from", "bare.png"], "does not hold the request"),
    "from nothing": (["--from", "gone.png"], "no image gone.png"),
    "seed": (["fox", "--seed", "-1"], "seed -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = BAD[name]
    Path("notes.png").write_text("not an image")
    Image.new("RGB", (4, 4)).save("bare.png")
    assert generate(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert files() == ["bare.png", "notes.png"]
    assert loader.calls == [], "bad input is found before weights are loaded"


@pytest.mark.parametrize("arguments", [[], ["fox", "--widht", "3"], ["fox", "--steps", "many"]])
def test_wrong_usage(arguments: list[str], generate: Command, loader: Loader) -> None:
    assert generate(*arguments) == 2
    assert files() == []


def test_quiet_says_nothing(generate: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert generate("fox", "-o", "fox.png", "--quiet") == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_debug_shows_where(loader: Loader) -> None:
    with pytest.raises(RequestError):
        run(["generate", "fox", "--width", "0", "--debug"])
    with pytest.raises(SystemExit):
        run(["generate", "-o", "a.png", "--", "--debug"])
    assert loader.pipeline.asked[0].prompt == "--debug"


def test_memory_settings_are_not_kept_with_an_image(generate: Command, loader: Loader) -> None:
    """They change no pixel, but for the number of bits of weights."""
    flags = ["--offload", "auto", "--prompt-cache", "texts", "--quantize", "int8", "-o", "a.png"]
    assert generate("a cat", "--seed", 3, "--model", "m", *flags) == 0
    assert generate("--from", "a.png", "-o", "b.png", "--offload", "parts") == 0
    first, second = (options for _, options in loader.calls)
    assert first == {"offload": "auto", "prompt_cache": Path("texts"), "quantize": "int8"}
    assert second == {"quantize": "int8", "offload": "parts"}
