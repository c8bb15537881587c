"""The example scripts run as a user would run them, with few steps."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from kandinsky.core.metadata import read_metadata
from tests.docs.pages import REPOSITORY
from tests.docs.scripts import load_script, make_examples


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    script = load_script(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    script.main()


def test_text_to_image(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("text_to_image", monkeypatch, "a fox", "-o", "fox.png", "--count", "2", "--seed", "5", "--steps", "2")
    seeds = [read_metadata(here / f"fox-000{index}.png").request["seed"] for index in (1, 2)]
    assert seeds == [5, 6]


def test_fuse_and_inpaint(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("fuse_and_inpaint", monkeypatch, "--steps", "2")
    made = [Image.open(here / name) for name in ("cat.png", "fused.png", "hat.png")]
    assert len({image.size for image in made}) == 1
    assert len({image.tobytes() for image in made}) == 3


def test_stream_with_preview(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("stream_with_preview", monkeypatch, "-o", "fox.png", "--every", "2", "--steps", "4")
    assert "decoder 4/4" in capsys.readouterr().out
    assert Image.open(here / "preview.png").width <= Image.open(here / "fox.png").width


@pytest.mark.slow
def test_the_gallery_draws_its_sheets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make_examples()
    monkeypatch.setattr(gallery, "THINGS", gallery.THINGS[:3])
    # One sheet of every kind; the others differ from "apple" in their prompts only.
    kinds = ["things", "apple", "mix", "image-to-image", "inpainting", "variation"]
    settings = ["--out", "images", "--steps", "1", "--columns", "3", "--only", *kinds]
    monkeypatch.setattr(sys, "argv", ["make_examples.py", *settings])
    gallery.main()
    text = (here / "images" / "README.md").read_text(encoding="utf-8")
    for sheet in gallery.SHEETS:
        assert f"]({sheet.file})" in text
        if sheet.name not in kinds:
            continue
        image = Image.open(here / "images" / sheet.file)
        side = (image.width - gallery.GAP) // 3
        assert (image.height - gallery.GAP) // side == len(sheet.rows), sheet.name


@pytest.mark.slow
def test_the_gallery_repeats_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make_examples()
    made = []
    for folder in ("first", "second"):
        arguments = ["make_examples.py", "--out", folder, "--steps", "1", "--only", "inpainting", "--columns", "3"]
        monkeypatch.setattr(sys, "argv", arguments)
        gallery.main()
        made.append((here / folder / "inpainting.png").read_bytes())
    assert made[0] == made[1]


def test_a_word_is_learned(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("learn_a_word", monkeypatch, "--steps", "1", "--draw-steps", "1")
    assert capsys.readouterr().out.splitlines()[-1].endswith("a zwx")
    assert Image.open(here / "toy" / "sheet.png").height == 3 * 64


@pytest.mark.slow
def test_the_learned_word_is_nearer_to_the_toy_than_any_other_prompt(here: Path) -> None:
    found = load_script("learn_a_word").measure(here / "toy")
    word = found.pop("a zwx")
    found.pop("the images themselves")
    assert word > max(found.values()) + 0.1, found


@pytest.mark.slow
def test_the_class_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("keep_the_class", monkeypatch, "--steps", "1", "--draw-steps", "1", "--count", "2")
    names = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["as it was", "with the class", "without"]
    assert Image.open(here / "toys" / "sheet.png").height == 7 * 64


def test_the_spread_of_a_class() -> None:
    spread = load_script("keep_the_class").spread
    assert spread(torch.eye(3)) == pytest.approx(1.0)
    assert spread(torch.ones(4, 1)) == pytest.approx(0.0)


def test_a_style_is_learned(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a folder of few things in two styles."""
    apple = {"group": "food and drink", "captions": {"en": {"label": "red apple"}}}
    things = {str(number): apple | {"captions": {"en": {"label": f"thing {number}"}}} for number in range(4)}
    (here / "concepts.json").write_text(json.dumps(things), encoding="utf-8")
    rows = []
    for number in range(8):
        Image.new("RGBA", (64, 64), (40 * number % 256, 90, 10, 200)).save(here / f"{number}.png")
        style = "round" if number % 2 else "flat"
        rows.append(
            {
                "file_name": f"{number}.png",
                "codepoints": str(number // 2),
                "style": style,
                # One thing is held out in the flat style alone.
                "split": "train" if number == 7 else "test",
            }
        )
    (here / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    quick = ["--steps", "1", "--draw-steps", "1", "--count", "2"]
    run_script("learn_a_style", monkeypatch, "--data", ".", *quick)
    assert [line[7:] for line in capsys.readouterr().out.splitlines()[-3:]] == [
        "the prints themselves",
        "before",
        "after",
    ]
    assert Image.open(here / "style" / "sheet.png").height == 3 * 64


def test_what_is_in_two_inks() -> None:
    style = load_script("learn_a_style")
    colours = Image.linear_gradient("L")
    assert style.inked([style.printed(colours)]) == 1.0
    assert style.inked([Image.new("RGB", (4, 4), colour) for colour in ("white", "red", style.INK)]) == 1 / 3


@pytest.mark.slow
def test_the_sheets_of_parameters(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["count", "strength", "mix"]
    run_script("draw_parameters", monkeypatch, "--out", "sheets", "--steps", "1", "--only", *kinds)
    assert {path.stem for path in (here / "sheets").iterdir()} == set(kinds)
    assert Image.open(here / "sheets" / "mix.webp").width > 5 * 192


def test_every_sheet_of_a_parameter_is_drawn_and_shown() -> None:
    sheets = set(load_script("draw_parameters").SHEETS)
    folder = REPOSITORY / "docs" / "images" / "parameters"
    assert {path.stem for path in folder.iterdir()} == sheets
    text = "".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs").glob("*.md"))
    assert [path.name for path in folder.iterdir() if f"images/parameters/{path.name})" not in text] == []
    shown = [REPOSITORY / "docs" / "images", REPOSITORY / "examples" / "images"]
    assert sum(path.stat().st_size for place in shown for path in place.rglob("*") if path.is_file()) < 3_500_000
