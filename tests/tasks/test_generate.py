"""Whole requests on a tiny checkpoint: images alone and in batches, sizes, samplers, events, cancelling."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kandinsky
from kandinsky.core.errors import KandinskyError
from kandinsky.core.events import Decoding, Denoising, Encoding, Finished
from kandinsky.diffusion import loop
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.engine.pipeline import Pipeline
from kandinsky.networks.prepared import PreparedNetwork
from tests.requests import our_latents
from tests.tiny import WIDTH, Checkpoints, write_tiny

QUICK: dict[str, Any] = {"seed": 5, "steps": 2, "prior_steps": 2}


def pixels(result: kandinsky.Result) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.images]


def noise_image(seed: int, width: int = 64, height: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def half_mask(left: bool) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255 if left else 0
    mask[:, 32:] = 0 if left else 255
    return mask


@pytest.fixture(scope="module")
def pipe(tiny: Checkpoints) -> Pipeline:
    return tiny.own()


PROMPTS: list[Any] = [
    "a red fox",
    "",
    kandinsky.mix(["a cat", noise_image(1)], [0.7, 0.3]),
    kandinsky.Embedding([0.1] * WIDTH),
    noise_image(2, 20, 31),
]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Requests of every task, with one value for all prompts or one for each."""
    prompts = draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3))
    several = len(prompts)

    def each(values: list[Any]) -> Any:
        one = st.sampled_from(values)
        return draw(one | st.lists(one, min_size=several, max_size=several))

    fields: dict[str, Any] = {
        "prompt": prompts,
        "count": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 1000)),
        "steps": draw(st.integers(1, 3)),
        "prior_steps": draw(st.integers(1, 2)),
        "guidance_scale": draw(st.sampled_from([0.0, 1.0, 4.0])),
        "negative_prompt": each([None, "", "a house"]),
        "width": draw(st.sampled_from([40, 64, 72])),
        "height": 64,
    }
    if draw(st.booleans()):
        fields["image"] = each([noise_image(3), noise_image(4)])
        if draw(st.booleans()):
            fields["mask"] = each([half_mask(True), half_mask(False)])
        fields["strength"] = draw(st.sampled_from([None, 0.1, 0.6, 1.0]))
    return fields


def alone(fields: dict[str, Any], index: int) -> dict[str, Any]:
    """The request for one image of a request."""
    row = index // fields["count"]
    single = {
        name: value[row] if isinstance(value, list) else value
        for name, value in fields.items()
        if name in ("prompt", "negative_prompt", "image", "mask")
    }
    return fields | single | {"count": 1, "seed": fields["seed"] + index}


@settings(max_examples=10, deadline=None)
@given(fields=requests(), data=st.data())
def test_an_image_of_a_batch_is_the_image_alone(fields: dict[str, Any], data: st.DataObject, pipe: Pipeline) -> None:
    together = our_latents(pipe, **fields)
    index = data.draw(st.integers(0, len(together) - 1))
    single = our_latents(pipe, **alone(fields, index))
    scale = float(together.abs().max())
    assert (together[index] - single[0]).abs().max() < 1e-5 * max(scale, 1.0)


@settings(max_examples=6, deadline=None)
@given(fields=requests(), data=st.data())
def test_one_at_a_time_is_the_image_alone_to_the_bit(
    fields: dict[str, Any], data: st.DataObject, pipe: Pipeline
) -> None:
    together = pixels(pipe.generate(**fields))
    index = data.draw(st.integers(0, len(together) - 1))
    (single,) = pixels(pipe.generate(**alone(fields, index)))
    assert single.shape == (64, fields["width"], 3)
    assert np.array_equal(together[index], single)


@settings(max_examples=5, deadline=None)
@given(fields=requests())
def test_the_same_request_gives_the_same_bytes(fields: dict[str, Any], tiny: Checkpoints) -> None:
    pipe = tiny.own(batch_size=2)
    first, second = (pixels(pipe.generate(**fields)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_prompts_counts_and_seeds_go_together(pipe: Pipeline) -> None:
    result = pipe.generate(["a fox", "a cat"], count=2, **QUICK)
    assert result.seeds == [5, 6, 7, 8]
    made = pixels(result)
    for index, (prompt, seed) in enumerate([("a fox", 5), ("a fox", 6), ("a cat", 7), ("a cat", 8)]):
        (single,) = pixels(pipe.generate(prompt, **(QUICK | {"seed": seed})))
        assert np.array_equal(made[index], single)
    assert len({image.tobytes() for image in made}) == 4


@pytest.mark.parametrize(("width", "height"), [(8, 8), (72, 40), (64, 100)])
def test_any_size_is_the_crop_of_the_larger_one(pipe: Pipeline, width: int, height: int) -> None:
    (small,) = pixels(pipe.generate("a fox", width=width, height=height, **QUICK))
    across, down = (-(-side // 64) * 64 for side in (width, height))
    (large,) = pixels(pipe.generate("a fox", width=across, height=down, **QUICK))
    assert small.shape == (height, width, 3)
    assert large.shape == (down, across, 3)
    assert np.array_equal(small, large[:height, :width])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_sampler_draws(pipe: Pipeline, sampler: str, steps: int) -> None:
    fields = QUICK | {"steps": steps, "sampler": sampler}
    result = pipe.generate("a fox", **fields)
    assert result.request["sampler"] == sampler
    assert our_latents(pipe, prompt="a fox", **fields).isfinite().all()
    assert pixels(result)[0].std() > 0


def test_eta_is_the_share_of_fresh_noise(pipe: Pipeline) -> None:
    fields = QUICK | {"steps": 3, "prompt": "a fox", "sampler": "ddim"}
    plain, none, some = (our_latents(pipe, **fields, **eta) for eta in ({}, {"eta": 0.0}, {"eta": 0.7}))
    assert torch.equal(plain, none)
    assert not torch.allclose(plain, some, atol=1e-2)


def test_events_and_totals(tiny: Checkpoints) -> None:
    pipe = tiny.own(batch_size=2)
    events = list(pipe.stream(["a fox", noise_image(1), "a cat"], negative_prompt=["", "a house", ""], **QUICK))
    kinds = [type(event).__name__ for event in events]
    assert kinds[0] == "Encoding"
    assert kinds[-1] == "Finished"
    assert kinds.count("Finished") == 1
    assert kinds.count("Decoding") == 2
    prior = [event for event in events if isinstance(event, Denoising) and event.stage == "prior"]
    decoder = [event for event in events if isinstance(event, Denoising) and event.stage == "decoder"]
    # The first batch needs the fox and the house, the second the cat; then two batches are denoised.
    assert [(event.step, event.total) for event in prior] == [(k + 1, 6) for k in range(6)]
    assert [(event.step, event.total) for event in decoder] == [(k + 1, 4) for k in range(4)]
    assert events.index(prior[-1]) < events.index(decoder[0])
    assert [e.stage for e in events if isinstance(e, Encoding)] == ["text", "text", "image", "text"]
    assert isinstance(events[events.index(decoder[1]) + 1], Decoding)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.result.batch == 2
    assert len(finished.result.images) == 3


def test_previews_are_small_images(tiny: Checkpoints) -> None:
    pipe = tiny.own(batch_size=2)
    for event in pipe.stream("a fox", count=2, **QUICK):
        if isinstance(event, Denoising) and event.stage == "decoder":
            assert event.preview is not None
            assert [image.size for image in event.preview()] == [(8, 8), (8, 8)]
        elif isinstance(event, Denoising):
            assert event.preview is None


def test_requests_are_checked_before_the_stream_is_returned(pipe: Pipeline) -> None:
    with pytest.raises(kandinsky.RequestError, match="Did you mean 'euler'"):
        pipe.stream("a fox", sampler="eulr")
    with pytest.raises(kandinsky.RequestError, match=r"eta 0\.5 cannot act in sampler 'euler'"):
        pipe.stream("a fox", sampler="euler", eta=0.5)


class Watched:
    """Weak references to whatever a request makes on the way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[weakref.ref[Any]] = []
        step = loop.Step.__init__
        prepared = PreparedNetwork.__init__

        def watched_step(this: Any, *arguments: Any, **named: Any) -> None:
            step(this, *arguments, **named)
            self.seen += [weakref.ref(this), weakref.ref(this.x), weakref.ref(this.prediction.x0)]

        def watched_prepared(this: Any, *arguments: Any, **named: Any) -> None:
            prepared(this, *arguments, **named)
            self.seen += [weakref.ref(this), weakref.ref(this.fixed_of), weakref.ref(this.table._rows)]

        patch.setattr(loop.Step, "__init__", watched_step)
        patch.setattr(PreparedNetwork, "__init__", watched_prepared)

    def alive(self) -> list[Any]:
        return [found for found in (reference() for reference in self.seen) if found is not None]


def test_closing_a_stream_anywhere_frees_everything(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = QUICK | {"prompt": ["a fox", "a cat"], "negative_prompt": "a house"}
    wanted = pixels(pipe.generate(**fields))
    total = len(list(pipe.stream(**fields)))
    watched = Watched(monkeypatch)
    gc.collect()
    gc.disable()  # what is left must go by itself, not wait for a collection
    try:
        for stop in range(total + 1):
            stream = pipe.stream(**fields)
            event = None
            for _ in range(stop):
                event = next(stream)
            stream.close()
            assert stream.gi_frame is None
            del stream, event
            assert watched.alive() == []
    finally:
        gc.enable()
    assert len(watched.seen) > 50
    assert all(np.array_equal(a, b) for a, b in zip(wanted, pixels(pipe.generate(**fields)), strict=True))


def test_an_abandoned_stream_frees_everything(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for event in pipe.stream("a fox", **QUICK):
        if isinstance(event, Denoising) and event.stage == "decoder":
            break
    del event
    gc.collect()
    assert watched.alive() == []


def test_nothing_of_a_finished_request_is_left(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    result = pipe.generate("a fox", count=2, **QUICK)
    assert len(result.images) == 2
    assert watched.alive() == []


def test_while_decoding_the_prepared_networks_are_gone(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for event in pipe.stream("a fox", **QUICK):
        if isinstance(event, Decoding):
            alive = watched.alive()
    assert not [one for one in alive if isinstance(one, PreparedNetwork)]


def test_the_caller_s_gradient_mode_is_left_alone(pipe: Pipeline) -> None:
    for _ in pipe.stream("a fox", **QUICK):
        assert torch.is_grad_enabled()


TASKS: dict[str, dict[str, Any]] = {
    "text": {},
    "image": {"image": noise_image(3), "strength": 0.5},
    "region": {"image": noise_image(3), "mask": half_mask(True)},
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(tiny: Checkpoints, dtype: str) -> None:
    pipe, plain = tiny.own(dtype=dtype), tiny.own()
    one_step = QUICK | {"steps": 1, "prior_steps": 1}
    for name, fields in TASKS.items():
        found = our_latents(pipe, prompt="a fox", **fields, **one_step)
        assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)
        assert found.isfinite().all(), name
        exact = our_latents(plain, prompt="a fox", **fields, **one_step)
        difference = (found - exact).abs().max() / exact.abs().max()
        # float64 draws other noise, as diffusers does; half precision only rounds.
        assert 0 < difference < (2.0 if dtype == "float64" else 0.2), name
    (image,) = pixels(pipe.generate("a fox", **one_step))
    assert image.std() > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_precisions_of_the_other_decoders(tiny: Checkpoints, dtype: str) -> None:
    one_step = QUICK | {"steps": 1, "prior_steps": 1}
    for kind, fields in (("inpaint", TASKS["region"]), ("control", {"hint": noise_image(4)})):
        found = our_latents(tiny.ours(kind, dtype=dtype), prompt="a", **fields, **one_step)
        assert found.isfinite().all(), kind


@pytest.mark.parametrize("where", ["unet", "movq", "prior"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_an_error_with_a_cause(where: str, value: float, tmp_path: Path) -> None:
    pipe = kandinsky.load(write_tiny(tmp_path), device="cpu", dtype="float32")
    network = {"unet": pipe.model.network, "movq": pipe.model.codec.network, "prior": pipe.model.modules["prior"]}[
        where
    ]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.view(-1)[0] = value
    with pytest.raises(KandinskyError, match=r"are not finite.*guidance_scale.*float32"):
        pipe.generate("a red fox", seed=1, steps=2)
