"""The example scripts run as a user would run them, with few steps."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from kandinsky.core.metadata import read_metadata
from tests.docs.scripts import load_script, make_examples


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    script = load_script(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    script.main()


def test_text_to_image(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script(
        "text_to_image", monkeypatch, "a fox", "-o", "fox.png", "--count", "2", "--seed", "5", "--steps", "2"
    )
    seeds = [read_metadata(here / f"fox-000{index}.png").request["seed"] for index in (1, 2)]
    assert seeds == [5, 6]


def test_fuse_and_inpaint(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("fuse_and_inpaint", monkeypatch, "--steps", "2")
    made = [Image.open(here / name) for name in ("cat.png", "fused.png", "hat.png")]
    assert len({image.size for image in made}) == 1
    assert len({image.tobytes() for image in made}) == 3


def test_stream_with_preview(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("stream_with_preview", monkeypatch, "-o", "fox.png", "--every", "2", "--steps", "4")
    assert "decoder 4/4" in capsys.readouterr().out
    assert Image.open(here / "preview.png").width <= Image.open(here / "fox.png").width


def test_the_gallery_draws_its_sheets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make_examples()
    monkeypatch.setattr(gallery, "THINGS", gallery.THINGS[:3])
    # One sheet of every kind; the others differ from "apple" in their prompts only.
    kinds = ["things", "apple", "mix", "image-to-image", "inpainting", "variation"]
    settings = ["--out", "pictures", "--steps", "1", "--columns", "3", "--only", *kinds]
    monkeypatch.setattr(sys, "argv", ["make_examples.py", *settings])
    gallery.main()
    text = (here / "pictures" / "README.md").read_text(encoding="utf-8")
    for sheet in gallery.SHEETS:
        assert f"]({sheet.file})" in text
        if sheet.name not in kinds:
            continue
        image = Image.open(here / "pictures" / sheet.file)
        side = (image.width - gallery.GAP) // 3
        assert (image.height - gallery.GAP) // side == len(sheet.rows), sheet.name


def test_the_gallery_repeats_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = make_examples()
    made = []
    for folder in ("first", "second"):
        arguments = [
            "make_examples.py",
            "--out",
            folder,
            "--steps",
            "1",
            "--only",
            "inpainting",
            "--columns",
            "3",
        ]
        monkeypatch.setattr(sys, "argv", arguments)
        gallery.main()
        made.append((here / folder / "inpainting.png").read_bytes())
    assert made[0] == made[1]


def test_a_word_is_learned(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("learn_a_word", monkeypatch, "--steps", "1", "--draw-steps", "1")
    assert capsys.readouterr().out.splitlines()[-1].endswith("a zwx")
    assert Image.open(here / "toy" / "sheet.png").height == 3 * 64


@pytest.mark.slow
def test_the_learned_word_is_nearer_to_the_toy_than_any_other_prompt(here: Path) -> None:
    found = load_script("learn_a_word").measure(here / "toy")
    word = found.pop("a zwx")
    found.pop("the pictures themselves")
    assert word > max(found.values()) + 0.2, found
