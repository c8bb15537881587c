"""The networks of two stages (a prior, a decoder by image embeddings) on MindSpore beside torch's: alone, and in whole
requests with the same noise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import open as open_image

import kandinsky
from kandinsky.cli.main import run
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import RequestError
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2Condition
from tests.backends.checkpoints import DECODER, HINTED_CODEC, PRIOR, VISION, write_two_stages
from tests.backends.test_mindspore import FRACTION, latents_of, noise, picture, relative

pytestmark = pytest.mark.mindspore
Pair = tuple[Pipeline, Pipeline]
CHANNELS: dict[str, dict[str, Any]] = {
    "image": {},
    "region": {"in_channels": 9},
    "image_hint": {"in_channels": 8, "condition": "image_hint"},
}


def both(folder: Path, **options: Any) -> Pair:
    return kandinsky.load(folder, backend="mindspore", **options), kandinsky.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_stages(tmp_path_factory.mktemp("two") / "tiny")


@pytest.fixture(scope="module")
def pipes(folder: Path) -> Pair:
    return both(folder)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return both(write_two_stages(tmp_path_factory.mktemp("region") / "tiny", replace(DECODER, **CHANNELS["region"])))


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    # As many pixels a latent as the published hint encoder has.
    unet = replace(DECODER, **CHANNELS["image_hint"])
    return both(write_two_stages(tmp_path_factory.mktemp("hint") / "tiny", unet, HINTED_CODEC))


def stages(pipes: Pair) -> tuple[PriorStage, PriorStage]:
    first, second = (pipe.running.conditioner.prior for pipe in pipes)  # type: ignore[attr-defined]
    return first, second


@torch.no_grad()
def test_the_towers_say_the_same(pipes: Pair) -> None:
    ids = torch.tensor([[528, 5, 300, 12, 529, 7], [528, 529, 0, 0, 0, 0]])
    features = [stage.text(ids) for stage in stages(pipes)]
    assert relative(*(one.hidden for one in features)) < 1e-5
    assert relative(*(one.embedding for one in features)) < 1e-5
    pixels = noise(2, 3, VISION.image_size, VISION.image_size)
    assert relative(*(stage.see(pixels) for stage in stages(pipes))) < 1e-5
    assert relative(*(stage.zero_embedding for stage in stages(pipes))) < 1e-5
    for stage in stages(pipes):
        with pytest.raises(RequestError, match="tokens are more"):
            stage.text(torch.zeros(1, PRIOR.tokens + 1, dtype=torch.long))
        with pytest.raises(RequestError, match="do not fit"):
            stage.see(pixels[:, :, 1:])


@torch.no_grad()
def test_the_prior_says_the_same_of_short_and_long_texts(pipes: Pair) -> None:
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    condition = PriorCondition(noise(2, 7, PRIOR.text_width), noise(2, PRIOR.embedding_dim), mask)
    x = noise(2, PRIOR.embedding_dim, seed=6)
    prepared = [stage.network.prepare(condition, [900.0, 100.0]) for stage in stages(pipes)]
    for t in (900.0, 100.0, 33.3):
        assert relative(*(one.step(x, t) for one in prepared)) < 1e-5
    for stage in stages(pipes):
        assert relative(stage.network.denormalise(stage.network.normalise(x)), x) < 1e-5
        with pytest.raises(RequestError, match="row 0 is masked"):
            stage.network.prepare(replace(condition, text_mask=~mask), [100.0])


@torch.no_grad()
@pytest.mark.parametrize("kind", [*CHANNELS])
def test_the_unet_says_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    pipes = request.getfixturevalue({"image": "pipes", "region": "region", "image_hint": "hinted"}[kind])
    condition = UNet2Condition(noise(2, DECODER.image_dim))
    if kind == "region":
        condition = replace(condition, extra=noise(1, 5, 8, 8, seed=8))
    if kind == "image_hint":
        condition = replace(condition, hint=noise(2, 3, 64, 64, seed=9).sigmoid())
    x = noise(2, 4, 8, 8, seed=6)
    prepared = [pipe.running.network.prepare(condition, [500.0, 100.0]) for pipe in pipes]
    for t in (500.0, 100.0, 33.3):
        assert relative(*(one.step(x, t) for one in prepared)) < 1e-5


def requests() -> dict[str, Request]:
    size: dict[str, Any] = {"steps": 4, "prior_steps": 3, "width": 16, "height": 16, "seed": 7}
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    return {
        "text": Request("a fox", **size),
        "negative": Request("a fox", negative_prompt="blue", **size),
        "image": Request("a fox", image=picture(), strength=0.6, **size),
        "mix": Request(kandinsky.mix(["a fox", picture()], [0.4, 0.6]), **size),
        "region": Request("a fox", image=picture(), mask=mask, **size),
    }


@pytest.mark.parametrize("name", [*requests()])
def test_the_same_noise_gives_the_same_image(pipes: Pair, name: str) -> None:
    found, wanted = (latents_of(pipe, requests()[name]) for pipe in pipes)
    assert relative(found, wanted) < FRACTION
    assert relative(*(pipe.running.codec.decode(wanted) for pipe in pipes)) < FRACTION


def test_a_network_for_regions_fills_one_with_the_same_image(region: Pair) -> None:
    found, wanted = (latents_of(pipe, requests()["region"]) for pipe in region)
    assert relative(found, wanted) < FRACTION


def test_a_hint_gives_the_same_image(hinted: Pair) -> None:
    request = Request("a fox", hint=picture(), steps=2, prior_steps=2, width=64, height=64, seed=7)
    found, wanted = (latents_of(pipe, request) for pipe in hinted)
    assert relative(found, wanted) < FRACTION


def test_a_request_is_drawn_and_repeated_by_its_settings(pipes: Pair) -> None:
    settings: dict[str, Any] = {"steps": 4, "prior_steps": 3, "width": 16, "height": 16, "seed": 7}
    found, wanted = (pipe.generate("a fox", **settings)[0] for pipe in pipes)
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(wanted, dtype=int)).max() <= 1
    assert pipes[0].settings["backend"] == "mindspore"
    cached = [pipe.generate("a fox", reuse=2, **settings)[0] for pipe in pipes]
    assert np.abs(np.asarray(cached[0], dtype=int) - np.asarray(cached[1], dtype=int)).max() <= 1


def test_the_command_draws_it_too(folder: Path, pipes: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["--steps", "4", "--prior-steps", "3", "--width", "16", "--height", "16", "--seed", "7"]
    with pytest.raises(SystemExit) as ended:
        run(["generate", "a fox", "--model", str(folder), "--backend", "mindspore", *sizes, "-o", "fox.png"])
    assert ended.value.code == 0
    wanted = pipes[1].generate("a fox", steps=4, prior_steps=3, width=16, height=16, seed=7)[0]
    found = np.asarray(open_image("fox.png"), dtype=int)
    assert np.abs(found - np.asarray(wanted, dtype=int)).max() <= 1


def test_a_large_tower_is_not_loaded_for_no_image(pipes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding of no image is computed by torch, a block at a time, and kept."""
    from kandinsky.backends.mindspore import host

    with monkeypatch.context() as patch:
        patch.setattr(host, "WAITS_FROM", 1)
        large = kandinsky.load(pipes[0].model_id, backend="mindspore")
    first, second = stages((large, pipes[1]))
    assert relative(first.zero_embedding, second.zero_embedding) < 1e-5
    assert "_weights" not in vars(first.vision)
    first.load_vision()
    assert "_weights" in vars(first.vision)


def test_other_lengths_of_texts_compile_nothing_anew(pipes: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from kandinsky.backends.mindspore import prior, transformer

    stage, extended = stages(pipes)[0], transformer.extended
    shapes: list[Any] = []

    def seen(w: Any, x: Any, bias: Any, past: Any, *rest: Any) -> Any:
        shapes.append((x.shape, tuple(one.shape for one in (*bias, *past))))
        return extended(w, x, bias, past, *rest)

    monkeypatch.setattr(transformer, "extended", seen)
    monkeypatch.setattr(prior, "extended", seen)
    for text in ("a fox", "a red fox and a blue cat"):
        stage.prepare([stage.encode_text(text)], 1)
    half = len(shapes) // 2
    assert shapes[:half] == shapes[half:]


def test_half_precision_is_near(folder: Path, pipes: Pair) -> None:
    half = kandinsky.load(folder, backend="mindspore", dtype="float16")
    for name in ("text", "mix"):
        assert relative(latents_of(half, requests()[name]), latents_of(pipes[1], requests()[name])) < 2e-2


def test_a_decoder_without_its_prior_takes_embeddings(folder: Path, pipes: Pair) -> None:
    alone = kandinsky.load(folder, prior=False, backend="mindspore")
    values = tuple(noise(DECODER.image_dim).tolist())
    given = kandinsky.Embedding(values, negative=tuple(noise(DECODER.image_dim, seed=6).tolist()))
    request = Request(given, steps=4, width=16, height=16, seed=7)
    assert relative(latents_of(alone, request), latents_of(pipes[1], request)) < FRACTION
    with pytest.raises(RequestError, match="without its prior"):
        alone.generate("a fox")
