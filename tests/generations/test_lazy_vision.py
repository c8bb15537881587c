"""A large vision tower waits in its files: texts never bring it, images do, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kandinsky
from kandinsky.core.events import Result
from kandinsky.core.system import VARIABLE
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations import loading
from kandinsky.generations.lazy_vision import LazyVisionTower

IMAGE = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))


def drawn(pipe: Pipeline, prompt: object = "a red fox") -> Result:
    return pipe.generate(prompt, steps=1, prior_steps=1, width=64, height=64, seed=3)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def waiting(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setattr(loading, "WAITS_FROM", 0)
    return kandinsky.load(device="cpu", dtype="float32")


def is_away(pipe: Pipeline) -> bool:
    return all(tensor.is_meta for tensor in pipe.model.modules["image_encoder"].parameters())


def test_texts_leave_it_in_its_files_and_read_it_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = drawn(kandinsky.load(device="cpu", dtype="float32"))
    pipe = waiting(monkeypatch)
    assert drawn(pipe).images[0].tobytes() == usual.images[0].tobytes()
    assert is_away(pipe)
    assert len(list((cache / "no-image").iterdir())) == 1

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("the tower was read again")

    monkeypatch.setattr(LazyVisionTower, "_streamed", refuse)
    assert drawn(waiting(monkeypatch)).images[0].tobytes() == usual.images[0].tobytes()


def test_images_bring_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = drawn(kandinsky.load(device="cpu", dtype="float32"), kandinsky.mix(["a fox", IMAGE]))
    pipe = waiting(monkeypatch)
    mixed = drawn(pipe, kandinsky.mix(["a fox", IMAGE]))
    assert mixed.images[0].tobytes() == usual.images[0].tobytes()
    assert not is_away(pipe)


def test_a_damaged_cache_is_made_anew_and_none_is_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn(waiting(monkeypatch)).images[0].tobytes()
    (file,) = (cache / "no-image").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert drawn(waiting(monkeypatch)).images[0].tobytes() == first
    assert file.read_bytes() == whole
    blocked = cache / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv(VARIABLE, str(blocked))
    assert drawn(waiting(monkeypatch)).images[0].tobytes() == first
