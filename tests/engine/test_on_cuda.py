"""The embedded checkpoint on a GPU: images as on a CPU, whatever is loaded in which way."""

from typing import Any

import numpy as np
import pytest
import torch

import kandinsky
from kandinsky.core.events import Denoising, Finished
from kandinsky.engine.pipeline import Pipeline

pytestmark = pytest.mark.cuda
ASKED: dict[str, Any] = {"seed": 5, "steps": 8, "prior_steps": 6}
PROMPT = "a red apple"
LEVELS = 3.0
"""Mean difference of images of half precision, in levels of 255."""


def drawn(pipe: Pipeline, prompt: Any = PROMPT, **fields: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in pipe.generate(prompt, **(ASKED | fields)).images]).astype(int)


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.fixture(scope="module")
def exact() -> Pipeline:
    return kandinsky.load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def half() -> Pipeline:
    return kandinsky.load()


def test_what_is_chosen(half: Pipeline) -> None:
    assert half.model.device.type == "cuda"
    assert half.model.dtype == torch.float16
    weights = [p for p in half.model.network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_as_on_a_cpu(dtype: str, exact: Pipeline) -> None:
    found = drawn(kandinsky.load(device="cuda", dtype=dtype), count=2)
    limit = {"float32": 0.5, "float16": LEVELS, "bfloat16": 4 * LEVELS}[dtype]
    assert far(found, drawn(exact, count=2)) < limit


def test_every_task(half: Pipeline, exact: Pipeline) -> None:
    image = drawn(exact)[0].astype(np.uint8)
    mask = np.zeros(image.shape[:2], bool)
    mask[:20] = True
    for fields in (
        {"image": image, "strength": 0.6},
        {"image": image, "mask": mask},
        {"guidance_interval": (0.2, 0.8)},
        {"reuse": 2},
        {"sampler": "heun"},
    ):
        assert far(drawn(half, **fields), drawn(exact, **fields)) < LEVELS, fields
    mixed = kandinsky.mix([PROMPT, "a green frog"], weights=[0.5, 0.5])
    assert far(drawn(half, mixed), drawn(exact, mixed)) < LEVELS


def test_compiled(half: Pipeline) -> None:
    assert far(drawn(kandinsky.load(compile=True)), drawn(half)) < LEVELS


@pytest.mark.parametrize("offload", ["parts", "auto"])
def test_requests_in_turns(offload: str, half: Pipeline) -> None:
    """Between two steps of one request another lets go of weights, which come back to another place."""
    pipe = kandinsky.load(offload=offload)
    expected = [drawn(half, prompt)[0] for prompt in (PROMPT, "a green frog")]
    streams = [pipe.stream(prompt, **ASKED) for prompt in (PROMPT, "a green frog")]
    found: dict[int, np.ndarray] = {}
    while len(found) < 2:
        for place, stream in enumerate(streams):
            if place in found:
                continue
            event = next(stream)
            if isinstance(event, Finished):
                found[place] = np.asarray(event.result.images[0]).astype(int)
            else:
                assert place in (0, 1) or isinstance(event, Denoising)
    for place, image in enumerate(expected):
        assert far(found[place], image) < LEVELS


def test_memory_comes_back() -> None:
    pipe = kandinsky.load()
    drawn(pipe)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        drawn(pipe)
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_a_lora_changes_what_is_drawn_and_goes_again(half: Pipeline) -> None:
    pipe = kandinsky.load()
    expected = drawn(half)
    pipe.load_lora("few-step")
    assert far(drawn(pipe), expected) > 1
    pipe.unload_lora()
    assert far(drawn(pipe), expected) == 0
