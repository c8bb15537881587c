"""`kandinsky generate`: names, repeats and what is written, on a pipeline without weights."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kandinsky.cli.outputs import slug
from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import read_metadata
from kandinsky.core.prompts import parse_mix
from kandinsky.core.requests import mix
from tests.cli.fakes import DEFAULTS, Command, Loader


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


def test_memory_settings_are_not_kept_with_an_image(generate: Command, loader: Loader) -> None:
    """They change no pixel, but for the number of bits of weights."""
    flags = ["--offload", "auto", "--prompt-cache", "texts", "--quantize", "int8", "-o", "a.png"]
    assert generate("a cat", "--seed", 3, "--model", "m", *flags) == 0
    assert generate("--from", "a.png", "-o", "b.png", "--offload", "parts") == 0
    first, second = (options for _, options in loader.calls)
    assert first == {"offload": "auto", "prompt_cache": Path("texts"), "quantize": "int8"}
    assert second == {"quantize": "int8", "offload": "parts"}


def test_folders_are_made_and_patterns_filled(generate: Command) -> None:
    assert generate("a cat", "a dog", "--seed", 4, "-o", "new/{prompt}/{seed}-{index}.png") == 0
    assert sorted(path.as_posix() for path in Path("new").rglob("*.png")) == ["new/a-cat/4-1.png", "new/a-dog/5-2.png"]
    assert generate("a cat", "-o", "other/", "--seed", 1) == 0
    assert os.listdir("other") == ["a-cat-1.png"]


def test_nothing_is_replaced_unless_asked(generate: Command) -> None:
    assert generate("a cat", "-o", "cat.png", "--seed", 1) == 0
    before = Path("cat.png").read_bytes()
    assert generate("a cat", "-o", "cat.png", "--seed", 2) == 1
    assert Path("cat.png").read_bytes() == before
    assert generate("a cat", "-o", "cat.png", "--seed", 2, "--overwrite") == 0
    assert Path("cat.png").read_bytes() != before
    for _ in range(2):
        assert generate("a cat", "--seed", 3, "--overwrite") == 0
    assert files() == ["a-cat-3.png", "cat.png"]


def test_a_name_that_another_program_took_in_the_meantime(generate: Command, loader: Loader) -> None:
    def take(step: int) -> None:
        Path("fox-7.png").write_bytes(b"another's")
        Path("mine.png").write_bytes(b"another's")

    loader.pipeline.on_step = take
    assert generate("fox", "--seed", 7) == 0
    assert generate("fox", "-o", "mine.png") == 1
    assert Path("fox-7.png").read_bytes() == Path("mine.png").read_bytes() == b"another's"
    assert pixels("fox-7-2.png").shape == (16, 16, 3)
    assert files() == ["fox-7-2.png", "fox-7.png", "mine.png"]


def test_one_image_to_stdout(generate: Command, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert generate("fox", "-o", "-", "--seed", 1) == 0
    out, _ = capfdbinary.readouterr()
    assert generate("fox", "-o", "fox.png", "--seed", 1) == 0
    assert out == Path("fox.png").read_bytes()


def test_json_names_everything(generate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("a cat", "лиса", "--seed", 5, "--json", "-o", "pets.png") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["path"], one["prompt"], one["seed"], one["width"]) for one in lines] == [
        ("pets-0001.png", "a cat", 5, 16),
        ("pets-0002.png", "лиса", 6, 16),
    ]
    assert lines[0]["request"]["steps"] == DEFAULTS["steps"]


def test_prompts_of_a_list(generate: Command, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("many.txt").write_text("a cat\n\nлиса\n", encoding="utf-8")
    Path("many.csv").write_text('prompt,negative_prompt,seed\na hat,blue,9\n"a cup, red",,12\n')
    assert generate("many.txt", "a dog", "--seed", 1) == 0
    assert generate("many.csv") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a key\n")))
    assert generate("-", "--seed", 3) == 0
    asked = [(one.prompt, one.seed, one.negative_prompt) for one in loader.pipeline.asked]
    assert asked == [
        ("a cat", 1, None),
        ("лиса", 2, None),
        ("a dog", 3, None),
        ("a hat", 9, "blue"),
        ("a cup, red", 12, None),
        ("a key", 3, None),
    ]


def test_images_are_drawn_in_batches_of_a_size(generate: Command, loader: Loader) -> None:
    assert generate("fox", "-n", 3, "--batch-size", 2) == 0
    assert generate("fox") == 0
    assert loader.pipeline.batch_sizes == [2, None]


def test_sizes_in_one_flag(generate: Command, loader: Loader) -> None:
    assert generate("fox", "--size", "24x32", "-s", 5) == 0
    assert (loader.pipeline.asked[0].width, loader.pipeline.asked[0].height) == (24, 32)


def test_a_grid_is_one_labelled_sheet(generate: Command, loader: Loader) -> None:
    assert generate("a cat", "a dog", "-n", 2, "--seed", 1, "--grid", "-o", "sheet.png") == 0
    assert files() == ["sheet.png"]
    assert pixels("sheet.png").shape[1] > 2 * 192
    assert generate("a cat", "--seed", 1, "--grid") == 0
    assert files() == ["a-cat-1-sheet.png", "sheet.png"]


def test_a_table_has_every_pair_of_values(generate: Command, loader: Loader) -> None:
    axes = ["--xy", "steps=1,2,3", "prompt=a fox,a cat"]
    assert generate("fox", "--seed", 4, *axes, "-o", "table.png") == 0
    asked = [(one.steps, one.prompt, one.seed) for one in loader.pipeline.asked]
    assert asked == [(steps, prompt, 4) for prompt in ("a fox", "a cat") for steps in (1, 2, 3)]
    height, width, _ = pixels("table.png").shape
    assert width > 3 * 192 > height > 2 * 192
    assert generate("fox", "a", "--xy", "steps=1,2", "seed=1,2") == 1


def test_a_sheet_of_switches(generate: Command, loader: Loader) -> None:
    assert generate("a (red:1.5) fox", "--xy", "prompt_weights=false,true", "seed=1,2", "-o", "sheet.png") == 0
    assert [asked.prompt_weights for asked in loader.pipeline.asked] == [False, True, False, True]


def test_weights_are_a_flag(generate: Command, loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("a (red:1.5) fox", "--prompt-weights", "-o", "a.png") == 0
    assert loader.pipeline.asked[0].prompt_weights
    assert generate("a (red:x) fox", "--prompt-weights", "-o", "b.png") == 1
    assert "prompt: at character 7, in 'a (red:x) fox': the weight 'x' is no number." in capsys.readouterr().err
