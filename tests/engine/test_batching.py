"""Requests of all kinds in shared batches: each image is what it is alone, and comes to its own request."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kandinsky
from kandinsky.core.events import Denoising, Finished
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.tasks import generate as path
from kandinsky.tasks.generate import groups_of
from tests.tiny import WIDTH, Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

QUICK: dict[str, Any] = {"steps": 2, "width": 64, "height": 64}


def noise_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def mask(columns: int) -> np.ndarray:
    found = np.zeros((64, 64), np.uint8)
    found[:, :columns] = 255
    return found


@dataclass(frozen=True, eq=False)
class Recorder:
    """A codec that keeps the latents it decodes."""

    own: Any
    seen: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def decode(self, latents: Tensor) -> Tensor:
        self.seen.append(latents)
        decoded: Tensor = self.own.decode(latents)
        return decoded


def latents_of(pipe: Pipeline, requests: list[Request], batch_size: int) -> dict[tuple[int, int], Tensor]:
    """The latents of each image, by the number of its request and its place there."""
    recorder = Recorder(pipe.model.codec)
    watched = Pipeline(replace(pipe.model, codec=recorder))
    results = watched.generate_batch(requests, batch_size)
    assert [len(result.images) for result in results] == [request.size for request in requests]
    groups = groups_of([pipe.resolve(request) for request in requests])
    order = [(one.request, one.place) for group in groups for one in group.members]
    assert max(len(latents) for latents in recorder.seen) <= batch_size
    rows = [row for latents in recorder.seen for row in latents]
    return dict(zip(order, rows, strict=True))


def check_alone(pipe: Pipeline, requests: list[Request], batch_size: int) -> None:
    """The first and the last images that are drawn are the same alone."""
    together = latents_of(pipe, requests, batch_size)
    for index, place in {next(iter(together)), next(reversed(together))}:
        found = together[index, place]
        (single,) = latents_of(pipe, [requests[index].alone(place)], 1).values()
        assert (found - single).abs().max() < 1e-5 * max(float(single.abs().max()), 1.0)


TEXTS = ["a red fox", "", "a cat in a house"]
NEGATIVES = [None, "", "a house", "fog and rain"]
SCALES = [None, 0.5, 1.0, 2.5, 4.0]


@st.composite
def requests(draw: st.DrawFn, prompts: list[Any], prior: bool, sampler: list[str | None]) -> Request:
    """One request; few values each, so that several of them go together in a batch."""
    count = draw(st.integers(1, 2))
    chosen = draw(st.lists(st.sampled_from(prompts), min_size=1, max_size=2))

    def each(values: list[Any]) -> Any:
        one = st.sampled_from(values)
        return draw(one | st.lists(one, min_size=len(chosen), max_size=len(chosen)))

    fields: dict[str, Any] = {
        **QUICK,
        "count": count,
        "seed": draw(st.integers(0, 99) | st.lists(st.integers(0, 99), min_size=len(chosen), max_size=len(chosen))),
        "negative_prompt": each(NEGATIVES),
        "guidance_scale": each(SCALES),
        "sampler": draw(st.sampled_from(sampler)),
    }
    if prior:
        fields |= {
            "prior_steps": draw(st.sampled_from([1, 2])),
            "prior_guidance_scale": each(SCALES),
            "prior_negative_prompt": each([None, "a dog"]),
        }
    if draw(st.integers(0, 2)) == 0:
        fields["image"] = each([noise_image(3), noise_image(4)])
        fields["strength"] = draw(st.sampled_from([0.6, 1.0]))
        if draw(st.booleans()):
            fields["mask"] = each([mask(32), mask(48)])
    return Request(chosen, **fields)


PROMPTS: list[Any] = [*TEXTS, kandinsky.mix(["a cat", noise_image(1)], [0.7, 0.3]), kandinsky.Embedding([0.1] * WIDTH)]


@settings(max_examples=4, deadline=None)
@given(asked=st.lists(requests(PROMPTS, True, [None, "euler_ancestral"]), min_size=2, max_size=4))
def test_requests_together_are_requests_alone(asked: list[Request], tiny: Checkpoints) -> None:
    asked = [request.filled(tiny.kept_own().model.defaults) for request in asked]
    check_alone(tiny.kept_own(), asked, 4)


@settings(max_examples=3, deadline=None)
@given(asked=st.lists(requests([*TEXTS, noise_image(1)], True, [None, "ddpm"]), min_size=2, max_size=3))
def test_decoders_that_read_the_text_too(asked: list[Request], text_image: TextImageCheckpoints) -> None:
    check_alone(text_image.kept(), asked, 4)


@settings(max_examples=3, deadline=None)
@given(asked=st.lists(requests(TEXTS, False, [None]), min_size=2, max_size=3))
def test_texts_of_their_own_lengths(asked: list[Request], one_text: OneTextCheckpoints) -> None:
    check_alone(one_text.kept(), asked, 4)


@settings(max_examples=3, deadline=None)
@given(asked=st.lists(requests(TEXTS, False, [None, "ddpm"]), min_size=2, max_size=3))
def test_decoders_of_two_texts(asked: list[Request], first_release: Path) -> None:
    check_alone(kandinsky.load(first_release, device="cpu", dtype="float32"), asked, 4)


def pixels(result: kandinsky.Result) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.images]


@settings(max_examples=3, deadline=None)
@given(asked=st.lists(requests(PROMPTS, True, [None]), min_size=2, max_size=3))
def test_one_at_a_time_they_are_alone_to_the_bit(asked: list[Request], tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    for request, result in zip(asked, pipe.generate_batch(asked, batch_size=1), strict=True):
        (wanted,) = pipe.generate_batch([request])
        assert result.seeds == wanted.seeds
        assert result.request == wanted.request
        assert result.batch == 1
        assert all(np.array_equal(a, b) for a, b in zip(pixels(result), pixels(wanted), strict=True))


def test_requests_share_batches_where_they_can(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    asked = [
        Request("a fox", seed=1, prior_steps=1, guidance_scale=3, **QUICK),
        Request("a cat", seed=9, prior_steps=1, guidance_scale=5, prior_guidance_scale=2.5, **QUICK),
        Request("a dog", seed=2, prior_steps=1, guidance_scale=1, **QUICK),
        Request("a cow", seed=2, prior_steps=1, guidance_scale=3, **(QUICK | {"steps": 3})),
        Request(["a hen", "an owl"], seed=[4, 8], prior_steps=1, negative_prompt="fog", count=2, **QUICK),
        Request("a hat", seed=5, prior_steps=1, image=noise_image(1), **QUICK),
    ]
    groups = groups_of([pipe.resolve(request) for request in asked])
    assert [[one.request for one in group.members] for group in groups] == [[0, 1, 4, 4, 4, 4], [2], [3], [5]]
    recorder = Recorder(pipe.model.codec)
    results = Pipeline(replace(pipe.model, codec=recorder)).generate_batch(asked, 4)
    assert [len(latents) for latents in recorder.seen] == [4, 2, 1, 1, 1]
    assert [result.seeds for result in results] == [[1], [9], [2], [2], [4, 5, 8, 9], [5]]
    assert [result.batch for result in results] == [4, 4, 1, 1, 4, 1]
    assert [result.request["guidance_scale"] for result in results[:3]] == [3, 5, 1]


def test_a_request_finishes_when_its_last_image_does(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    asked = [
        Request("a fox", seed=1, prior_steps=1, **QUICK),
        Request("a cow", seed=2, prior_steps=1, **(QUICK | {"steps": 1})),
        Request("a cat", seed=3, prior_steps=1, count=2, **QUICK),
    ]
    events = list(pipe.stream_batch(asked, batch_size=2))
    assert [event.index for event in events if isinstance(event, Finished)] == [0, 2, 1]
    decoder = [(e.step, e.total) for e in events if isinstance(e, Denoising) and e.stage == "decoder"]
    assert decoder == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 1)]
    previews = [len(event.preview()) for event in pipe.stream_batch(asked, batch_size=2) if _shows(event)]
    assert previews == [2, 2, 1, 1, 1]


def _shows(event: Any) -> bool:
    return isinstance(event, Denoising) and event.preview is not None


def test_numbers_of_their_own_for_each_prompt_of_one_request(tiny: Checkpoints) -> None:
    pipe = tiny.own(batch_size=2)
    fields = {**QUICK, "prior_steps": 1}
    result = pipe.generate(["a fox", "a cat"], guidance_scale=[3, 5], seed=[7, 1], **fields)
    assert result.seeds == [7, 1]
    for place, (prompt, scale, seed) in enumerate([("a fox", 3, 7), ("a cat", 5, 1)]):
        (wanted,) = pixels(pipe.generate(prompt, guidance_scale=scale, seed=seed, **fields))
        difference = pixels(result)[place].astype(int) - wanted
        assert abs(difference).max() <= 1
        assert not np.array_equal(wanted, pixels(result)[1 - place])


def test_long_lists_are_encoded_in_waves(tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.kept_own()
    asked = [Request(f"{index} foxes", seed=index, prior_steps=1, **QUICK) for index in range(5)]
    wanted = pipe.generate_batch(asked, batch_size=2)
    monkeypatch.setattr(path, "WAVE", 2)
    sizes = Counter[int]()
    encode = path.encode

    def counted(model: Any, request: Any, batches: Any) -> Any:
        sizes[len(batches)] += 1
        return encode(model, request, batches)

    monkeypatch.setattr(path, "encode", counted)
    found = pipe.generate_batch(asked, batch_size=2)
    assert sizes == {1: 3}
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(pixels(one)[0], pixels(other)[0])


def test_bad_ones_are_numbered_before_any_work(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    with pytest.raises(kandinsky.RequestError, match=r"Request 2 of 2: .*eulr"):
        pipe.stream_batch([Request("a fox"), Request("a cat", sampler="eulr")])
    with pytest.raises(kandinsky.RequestError, match="batch_size is 0"):
        pipe.stream_batch([Request("a fox")], batch_size=0)
    assert pipe.generate_batch([]) == []


def test_closing_ends_the_work(tiny: Checkpoints) -> None:
    stream = tiny.kept_own().stream_batch([Request("a fox", prior_steps=1, **QUICK)] * 3)
    next(event for event in stream if isinstance(event, Finished))
    stream.close()
    assert stream.gi_frame is None
    assert list(stream) == []
