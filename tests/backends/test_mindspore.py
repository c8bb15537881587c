"""The 3.x networks on MindSpore beside torch's: alone, and in whole requests with the same noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray

import kandinsky
from kandinsky.core.errors import RequestError
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.networks.unet3 import UNet3Condition
from kandinsky.tasks.generate import denoise, encode
from kandinsky.tasks.resolve import resolve
from tests.backends.checkpoints import TEXT, UNET

pytestmark = pytest.mark.mindspore
FRACTION = 1e-3


@pytest.fixture(scope="module")
def torchs(folder: Path) -> Pipeline:
    return kandinsky.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pipeline:
    return kandinsky.load(folder, backend="mindspore", dtype="float32")


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def noise(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_text_encoder_says_the_same(torchs: Pipeline, ours: Pipeline) -> None:
    ids = torch.arange(27).reshape(3, 9) % TEXT.vocab_size
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 9])
    states = [pipe.running.conditioner.encoder(ids, mask) for pipe in (ours, torchs)]  # type: ignore[attr-defined]
    assert relative(*states) < 1e-5


@torch.no_grad()
def test_the_unet_says_the_same_of_masked_and_null_rows(torchs: Pipeline, ours: Pipeline) -> None:
    hidden, mask = noise(2, 7, UNET.text_dim), torch.tensor([[1] * 4 + [0] * 3, [0] * 7])
    condition = UNet3Condition(hidden, mask, torch.tensor([7, 5]))
    x = noise(2, 4, 8, 8, seed=6)
    prepared = [pipe.running.network.prepare(condition, [500.0, 100.0]) for pipe in (ours, torchs)]
    for t in (500.0, 100.0, 33.3):
        assert relative(*(one.step(x, t) for one in prepared)) < 1e-5


@torch.no_grad()
def test_the_codec_says_the_same(torchs: Pipeline, ours: Pipeline) -> None:
    image, latents = noise(1, 3, 16, 24), noise(1, 4, 8, 12)
    codecs = [pipe.running.codec for pipe in (ours, torchs)]
    assert relative(*(codec.encode(image) for codec in codecs)) < 1e-5
    assert relative(*(codec.decode(latents) for codec in codecs)) < 1e-5
    # Its matrix is fitted to latents that a random encoder makes nearly alike, which blows rounding up.
    assert relative(*(codec.preview(latents) for codec in codecs)) < 1e-2


def picture() -> Image:
    values = np.random.default_rng(3).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return fromarray(values).resize((16, 16))


class Pcg64:
    """Noise of NumPy's generator."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        rows = [one.standard_normal(shape[1:]) for one in self.generators]
        return torch.from_numpy(np.stack(rows)).float()

    def select(self, rows: Sequence[int]) -> "Pcg64":
        made = Pcg64([self.seeds[row] for row in rows])
        made.generators = [self.generators[row] for row in rows]
        return made

    def fork(self) -> "Pcg64":
        return Pcg64(self.seeds)


def latents_of(pipe: Pipeline, request: Request) -> torch.Tensor:
    """The latents of a request, from the noise of PCG64."""
    from kandinsky.conditioning.conditions import Batch

    resolved = resolve(pipe.running, request)
    batch = Batch(resolved.rows, Pcg64([row.seed for row in resolved.rows]))
    events = encode(pipe.running, resolved, [batch])
    while True:
        try:
            next(events)
        except StopIteration as stop:
            (conditions,) = stop.value
            break
    return list(denoise(pipe.running, resolved, batch, conditions))[-1].x


def test_other_lengths_of_texts_compile_nothing_anew(ours: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from kandinsky.backends.mindspore import t5, unet3

    shapes: list[Any] = []

    def watched(module: Any, name: str) -> None:
        block = getattr(module, name)

        def seen(*given: Any) -> Any:
            shapes.append([one.shape for group in given if isinstance(group, tuple) for one in group])
            return block(*given)

        monkeypatch.setattr(module, name, seen)

    watched(t5, "_block")
    watched(unet3, "_attention_block")
    lengths = set()
    for text in ("a", "a fox"):
        tokens = ours.running.conditioner.reader.tokenizer.encode([text], 128)  # type: ignore[attr-defined]
        lengths.add(int(tokens.mask.sum()))
        latents_of(ours, Request(text, steps=1, width=64, height=64))
    half = len(shapes) // 2
    assert len(lengths) == 2
    assert shapes[:half] == shapes[half:]


@pytest.mark.parametrize("negative", [None, "blue"])
@pytest.mark.parametrize("image", [False, True])
def test_the_same_noise_gives_the_same_image(
    torchs: Pipeline, ours: Pipeline, image: bool, negative: str | None
) -> None:
    given: dict[str, Any] = {"image": picture(), "strength": 0.6} if image else {}
    request = Request("a fox", negative_prompt=negative, steps=4, width=16, height=16, seed=7, **given)
    found, wanted = (latents_of(pipe, request) for pipe in (ours, torchs))
    assert relative(found, wanted) < FRACTION
    assert relative(*(pipe.running.codec.decode(wanted) for pipe in (ours, torchs))) < FRACTION


def test_a_request_is_drawn_and_repeated_by_its_settings(torchs: Pipeline, ours: Pipeline) -> None:
    settings: dict[str, Any] = {"steps": 4, "width": 16, "height": 16, "seed": 7}
    found, wanted = (pipe.generate("a fox", **settings)[0] for pipe in (ours, torchs))
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(wanted, dtype=int)).max() <= 1
    assert ours.settings["backend"] == "mindspore"
    cached = [pipe.generate("a fox", reuse=2, **settings)[0] for pipe in (ours, torchs)]
    assert np.abs(np.asarray(cached[0], dtype=int) - np.asarray(cached[1], dtype=int)).max() <= 1


def test_half_precision_is_near(folder: Path, torchs: Pipeline) -> None:
    half = kandinsky.load(folder, backend="mindspore", dtype="float16")
    request = Request("a fox", steps=2, width=16, height=16, seed=7)
    assert relative(latents_of(half, request), latents_of(torchs, request)) < 2e-2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"device": "cuda"}, "cuda"),
        ({"device": "ascend"}, "Ascend"),
        ({"offload": "parts"}, "offload"),
        ({"quantize": "int8"}, "quantize"),
        ({"compile": True}, "compile"),
        ({"tiling": True}, "tiling"),
        ({"prompt_cache": "texts"}, "prompt_cache"),
        ({"lora": {"some.safetensors": 1.0}}, "backend"),
        ({"words": ["some.safetensors"]}, "backend"),
    ],
)
def test_what_does_not_act_is_refused_by_name(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        kandinsky.load(folder, backend="mindspore", **options)


def test_a_generation_without_a_form_is_refused(first_release: Path) -> None:
    with pytest.raises(RequestError, match=r"2\.0 does not run on MindSpore"):
        kandinsky.load(first_release, backend="mindspore")
