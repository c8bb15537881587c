"""The command line on a whole checkpoint: every task draws, and every file repeats itself to the last bit."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kandinsky
from kandinsky.cli.main import run
from tests.tiny import Checkpoints

Command = Callable[..., int]


@pytest.fixture
def checkpoint(tiny: Checkpoints) -> Path:
    return tiny.combined


@pytest.fixture
def generate(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save("in.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save("mask.png")

    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            run(["generate", *map(str, arguments), "--device", "cpu"])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


TASKS = {
    "text": ["a red fox"],
    "negative": ["a red fox", "--negative-prompt", "a house", "--sampler", "ddim", "--eta", "0.5"],
    "faster": ["a red fox", "--guidance-interval", "0.2", "0.8", "--reuse", "2", "--steps", "5"],
    "any size": ["a red fox", "--width", "72", "--height", "40"],
    "image": ["a blue cat", "--image", "in.png", "--strength", "0.5"],
    "region": ["a blue cat", "--image", "in.png", "--mask", "mask.png"],
    "mix": ["--mix", "a red fox:0.4", "--mix", "in.png:0.6"],
    "variation": ["--mix", "in.png:1"],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_repeats_itself(task: str, generate: Command, checkpoint: Path) -> None:
    assert generate(*TASKS[task], "--model", checkpoint, "--seed", 3, "-o", "a.png", "--preview") == 0
    assert sorted(os.listdir()) == ["a.png", "in.png", "mask.png"]
    assert pixels("a.png").std() > 0
    assert generate("--from", "a.png", "-o", "b.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert generate("--from", "a.png", "-o", "c.png", "--seed", 4) == 0
    assert not np.array_equal(pixels("a.png"), pixels("c.png"))


def test_sizes_are_what_was_asked(generate: Command, checkpoint: Path) -> None:
    assert generate("fox", "--width", 72, "--height", 40, "--model", checkpoint, "-o", "a.png") == 0
    assert pixels("a.png").shape == (40, 72, 3)


def test_the_command_line_draws_what_python_draws(generate: Command, checkpoint: Path) -> None:
    flags = ["-n", 2, "--seed", 3, "--model", checkpoint]
    assert generate("a fox", "a cat", *flags, "--batch-size", 1, "-o", "a.png") == 0
    assert generate("a fox", "a cat", *flags, "-o", "together.png") == 0
    pipe = kandinsky.load(checkpoint, device="cpu", batch_size=1)
    result = pipe.generate(["a fox", "a cat"], count=2, seed=3)
    for index, image in enumerate(result.images):
        assert np.array_equal(np.asarray(image), pixels(f"a-000{index + 1}.png"))
        # In one batch each image is what it is alone, to rounding.
        apart = np.abs(np.asarray(image).astype(int) - pixels(f"together-000{index + 1}.png"))
        assert apart.max() <= 2
    (saved, *_) = result.save("python.png")
    assert generate("--from", saved, "-o", "again.png") == 0
    assert np.array_equal(pixels("again.png"), np.asarray(result.images[0]))


BAD = {
    "sampler": (["fox", "--sampler", "eulr"], "Did you mean 'euler'"),
    "hint": (["fox", "--hint", "in.png"], "does not take a hint"),
    "device": (["fox", "--device", "abacus"], "abacus"),
    "dtype": (["fox", "--dtype", "float33"], "Did you mean 'float32'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, generate: Command, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = BAD[name]
    with pytest.raises(SystemExit) as ended:
        run(["generate", *arguments, "--model", str(checkpoint), "-o", "a.png"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(os.listdir()) == ["in.png", "mask.png"]


NEWEST = {
    "text": ["--negative-prompt", "p1", "--guidance-scale", "0.5"],
    "image": ["--image", "in.png", "--strength", "0.5"],
    "region": ["--variant", "inpainting", "--image", "in.png", "--mask", "mask.png"],
    "few steps": ["--variant", "flash"],
}


@pytest.mark.parametrize("task", NEWEST)
def test_original_files_of_the_newest_generation(
    task: str, generate: Command, third_release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["p0 p1 p2", *NEWEST[task], "--width", "64", "--height", "40", "--seed", "3"]
    asked += [] if task == "few steps" else ["--steps", "2"]
    assert generate(*asked, "--model", third_release, "-o", "a.png") == 0
    assert pixels("a.png").shape == (40, 64, 3)
    assert generate("--from", "a.png", "-o", "again.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("again.png"))
    if task == "few steps":
        assert generate(*asked, "--steps", 5, "--model", third_release, "-o", "b.png") != 0
        assert "Use 1 to 4" in " ".join(capsys.readouterr().err.split())
        assert not Path("b.png").exists()
