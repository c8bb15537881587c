"""`compile` of `load`: the same images, and nothing left to compile when the first is asked for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import kandinsky
from kandinsky.engine.acceleration import torch_compile
from kandinsky.engine.pipeline import Pipeline
from tests.tiny import WIDTH, Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

QUICK: dict[str, Any] = {"seed": 3, "steps": 3, "width": 64, "height": 64}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Compiles by tracing alone, which needs no C++ compiler; returns how many graphs there are by now."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch_compile, "compiler", lambda: "c++")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    counters.clear()
    return lambda: int(counters["stats"]["unique_graphs"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Instead of compiling, counts the calls of what would be compiled."""
    calls = [0]

    def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            calls[0] += 1
            return function(*arguments)

        return counting

    monkeypatch.setattr(torch_compile, "compiler", lambda: "c++")
    monkeypatch.setattr(torch, "compile", as_it_is)
    return calls


def pixels(pipe: Pipeline, prompt: Any = "a fox", **fields: Any) -> np.ndarray:
    return np.asarray(pipe.generate(prompt, **(QUICK | fields)).images[0]).astype(int)


def test_images_are_the_same_and_nothing_is_left_to_compile(tiny: Checkpoints, traced: Callable[[], int]) -> None:
    pipe, plain = tiny.own(compile=True), tiny.kept_own()
    assert pipe.settings["compile"] is True
    ready = traced()
    assert ready > 0
    assert abs(pixels(pipe) - pixels(plain)).max() <= 1
    assert traced() == ready


@pytest.mark.slow
def test_another_size_is_warmed_up(tiny: Checkpoints, traced: Callable[[], int]) -> None:
    pipe = tiny.own(compile=True)
    pipe.warm_up(width=96, count=2)
    ready = traced()
    pixels(pipe, width=96, count=2)
    assert traced() == ready


@pytest.mark.slow
def test_adapters_act_in_compiled_networks(tiny: Checkpoints, traced: Callable[[], int], tmp_path: Any) -> None:
    from tests.engine.test_adapters import write

    pipe, plain = tiny.own(compile=True), tiny.own()
    before = pixels(pipe)
    file = write(plain, tmp_path / "style.safetensors", "unet")
    for each in (pipe, plain):
        each.load_lora(file)
    assert abs(pixels(pipe) - before).max() > 1
    assert abs(pixels(pipe) - pixels(plain)).max() <= 1
    pipe.unload_lora()
    assert np.array_equal(pixels(pipe), before)


def test_decoders_of_every_input_are_warmed_up(tiny: Checkpoints, counted: list[int]) -> None:
    assert tiny.prior
    assert tiny.decoders
    for kind in ("text2img", "inpaint", "control"):
        counted[0] = 0
        pipe = kandinsky.load(tiny.root / kind, prior=tiny.root / "prior", device="cpu", compile=True)
        assert counted == [1]
        pipe.warm_up(width=128, count=2)
        assert counted == [2]


# Checkpoints of 1024 x 1024 pixels are warmed up at that size.
@pytest.mark.slow
def test_every_kind_of_checkpoint_is_warmed_up(
    tiny: Checkpoints,
    one_text: OneTextCheckpoints,
    text_image: TextImageCheckpoints,
    first_release: Path,
    counted: list[int],
) -> None:
    assert tiny.prior
    assert tiny.decoders
    prompt = kandinsky.Embedding([0.2] * WIDTH, [0.1] * WIDTH)
    pipe = tiny.own(prior=False, compile=True)
    assert counted == [1]
    assert abs(pixels(pipe, prompt) - pixels(tiny.kept_own(prior=False), prompt)).max() <= 1
    assert counted == [1 + QUICK["steps"]]
    assert abs(pixels(one_text.ours(compile=True)) - pixels(one_text.kept())).max() <= 1
    assert text_image.ours()
    others: list[tuple[Path, Path | bool | None]] = [(first_release, None), (text_image.root / "decoder", False)]
    others += [(tiny.root / kind, tiny.root / "prior") for kind in ("inpaint", "control")]
    for folder, prior in others:
        counted[0] = 0
        pipe = kandinsky.load(folder, prior=prior, device="cpu", compile=True)
        assert counted == [1]
        pipe.warm_up(width=128, count=2)
        assert counted == [2]


def test_steps_that_reuse_features_are_not_compiled(tiny: Checkpoints, counted: list[int]) -> None:
    pipe, plain = tiny.own(compile=True), tiny.own()
    counted[0] = 0
    assert np.array_equal(pixels(pipe, reuse=2), pixels(plain, reuse=2))
    assert counted == [0]


@pytest.mark.parametrize("option", [{"offload": "parts"}, {"quantize": "int8"}])
def test_weights_that_change_are_refused(tiny: Checkpoints, option: dict[str, str]) -> None:
    with pytest.raises(kandinsky.RequestError, match="compile needs weights that stay"):
        tiny.own(compile=True, **option)


def test_a_machine_without_a_compiler_is_told(tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_compile, "compiler", lambda: None)
    with pytest.raises(kandinsky.RequestError, match=r"none of c\+\+, .* is here"):
        tiny.own(compile=True)


@pytest.mark.slow
@pytest.mark.skipif(torch_compile.compiler() is None, reason="there is no C++ compiler")
def test_real_compiled_code_draws_the_same(tiny: Checkpoints) -> None:
    torch._dynamo.reset()
    assert abs(pixels(tiny.own(compile=True)) - pixels(tiny.own())).max() <= 1
