"""A middle-sized 3.x checkpoint on MindSpore beside torch, whole requests with the same noise."""

from pathlib import Path
from typing import Any

import pytest

import kandinsky
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from tests.backends.checkpoints import MIDDLE, MIDDLE_CODEC, write_checkpoint
from tests.backends.test_mindspore import FRACTION, latents_of, picture, relative

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Pipeline]:
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("middle") / "sized", MIDDLE, codec=MIDDLE_CODEC)
    return kandinsky.load(folder, backend="mindspore"), kandinsky.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize(("image", "negative"), [(False, "blue"), (False, None), (True, "blue")])
def test_the_same_noise_gives_the_same_image(
    pipes: tuple[Pipeline, Pipeline], image: bool, negative: str | None
) -> None:
    given: dict[str, Any] = {"image": picture().resize((64, 64)), "strength": 0.6} if image else {}
    request = Request("a fox", negative_prompt=negative, steps=4, width=64, height=64, seed=7, **given)
    found, wanted = (latents_of(pipe, request) for pipe in pipes)
    assert relative(found, wanted) < FRACTION
    assert relative(*(pipe.running.codec.decode(wanted) for pipe in pipes)) < FRACTION
