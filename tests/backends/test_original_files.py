"""Original files of several generations on MindSpore beside torch, whole requests with the same noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kandinsky
from kandinsky.core.requests import Request
from tests.backends.test_mindspore import FRACTION, latents_of, picture, relative
from tests.reference.folders import NEGATIVE, PRIOR_NEGATIVE, PROMPT, THIRD_PROMPT

pytestmark = pytest.mark.mindspore


def agree(folder: Path, requests: list[Request], variant: str | None = None) -> None:
    ours = kandinsky.load(folder, variant=variant, backend="mindspore")
    torchs = kandinsky.load(folder, variant=variant, device="cpu", dtype="float32")
    for request in requests:
        found, wanted = (latents_of(pipe, request) for pipe in (ours, torchs))
        assert relative(found, wanted) < FRACTION


def region(side: int) -> dict[str, Any]:
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255
    return {"image": picture().resize((side, side)), "mask": mask}


@torch.no_grad()
def test_a_decoder_of_texts_and_image_embeddings_draws_the_same(second_release: Path) -> None:
    size: dict[str, Any] = {"steps": 3, "prior_steps": 2, "width": 32, "height": 32, "seed": 7}
    said = {"negative_prompt": NEGATIVE, "prior_negative_prompt": PRIOR_NEGATIVE}
    image = {"image": picture().resize((32, 32)), "strength": 0.6}
    mix = kandinsky.mix([PROMPT, picture()], [0.4, 0.6])
    agree(second_release, [Request(PROMPT, **said, **size), Request(PROMPT, **image, **size), Request(mix, **size)])


@torch.no_grad()
def test_a_decoder_of_one_text_draws_the_same_by_each_of_its_networks(third_release: Path) -> None:
    size: dict[str, Any] = {"width": 32, "height": 32, "seed": 7}
    agree(third_release, [Request(THIRD_PROMPT, steps=3, **size)])
    # Two images without guidance are as many rows as one with it: nothing compiles anew.
    agree(third_release, [Request(THIRD_PROMPT, count=2, **size)], "flash")
    agree(third_release, [Request(THIRD_PROMPT, steps=3, **region(32), **size)], "inpainting")
