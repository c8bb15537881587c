"""Prompts as image embeddings: what is computed, how often, and what must not change what."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import kandinsky
from kandinsky.conditioning.image_prompt import draws_of
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Denoising, Encoding, Warned
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.prior import Prior
from kandinsky.tasks.generate import encode
from tests.requests import batches_of, our_conditions, returned
from tests.tiny import WIDTH, Checkpoints

SETTINGS: dict[str, Any] = {"seed": 3, "prior_steps": 2, "steps": 1}
GREY = np.full((9, 7, 3), 128, np.uint8)
RED = np.zeros((9, 7, 3), np.uint8) + np.array([200, 10, 10], np.uint8)


@pytest.fixture(scope="module")
def pipe(tiny: Checkpoints) -> Pipeline:
    return tiny.own()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each network was run."""
    counted: Counter[str] = Counter()
    for kind, method in ((ClipText, "forward"), (ClipVision, "forward"), (Prior, "prepare")):
        original = getattr(kind, method)

        def counting(*arguments: Any, _original: Any = original, _name: str = kind.__name__) -> Any:
            counted[_name] += 1
            return _original(*arguments)

        monkeypatch.setattr(kind, method, counting)
    return counted


def embedding(pipe: Pipeline, prompt: Any, **fields: Any) -> torch.Tensor:
    found: torch.Tensor = our_conditions(pipe, prompt=prompt, **(SETTINGS | fields)).cond.image_embedding
    return found


def test_each_text_is_encoded_once(tiny: Checkpoints, calls: Counter[str]) -> None:
    pipe = tiny.own()
    list(pipe.stream(["a fox", "a cat", "a fox"], negative_prompt="a house", count=3, **SETTINGS))
    # Two prompts and their negative. The prior reads each prompt against the negative, and once the negative.
    assert calls == {"ClipText": 3, "Prior": 4}
    calls.clear()
    list(pipe.stream("a fox", count=4, **SETTINGS))
    assert calls == {"ClipText": 2, "Prior": 1, "ClipVision": 1}
    calls.clear()
    list(pipe.stream("a fox", **SETTINGS))
    assert calls == {"ClipText": 2, "Prior": 1}, "the embedding of no image is kept"


def test_each_image_is_encoded_once(pipe: Pipeline, calls: Counter[str]) -> None:
    assert pipe.model.conditioner.stage.zero_embedding is not None  # type: ignore[attr-defined]
    calls.clear()
    list(pipe.stream(kandinsky.mix([GREY, RED, GREY]), count=2, **SETTINGS))
    assert calls == {"ClipVision": 2}


def test_embeddings_run_nothing(pipe: Pipeline, calls: Counter[str]) -> None:
    prompt = kandinsky.Embedding([0.5] * WIDTH, [0.1] * WIDTH)
    conditions = our_conditions(pipe, prompt=prompt, **SETTINGS)
    assert not calls
    assert torch.equal(conditions.cond.image_embedding, torch.full((1, WIDTH), 0.5))
    assert torch.equal(conditions.uncond.image_embedding, torch.full((1, WIDTH), 0.1))


def test_without_guidance_nothing_negative_is_computed(tiny: Checkpoints, calls: Counter[str]) -> None:
    pipe = tiny.own()
    conditions = our_conditions(pipe, prompt="a fox", negative_prompt="a cat", guidance_scale=1.0, **SETTINGS)
    assert conditions.uncond is None
    assert calls == {"ClipText": 2, "Prior": 1}


def test_a_negative_prompt_leaves_the_draws_alone(pipe: Pipeline) -> None:
    """Unguided in the prior, where it does not act, it changes nothing at all of the positive embedding."""
    plain = our_conditions(pipe, prompt="a fox", prior_guidance_scale=1.0, **SETTINGS)
    with_negative = our_conditions(pipe, prompt="a fox", negative_prompt="a cat", prior_guidance_scale=1.0, **SETTINGS)
    assert torch.equal(plain.cond.image_embedding, with_negative.cond.image_embedding)
    assert not torch.equal(plain.uncond.image_embedding, with_negative.uncond.image_embedding)
    own = our_conditions(
        pipe, prompt="a fox", negative_prompt="a cat", prior_negative_prompt="", **SETTINGS
    ).cond.image_embedding
    assert torch.equal(own, embedding(pipe, "a fox"))
    assert not torch.equal(embedding(pipe, "a fox", negative_prompt="a cat"), own)


def test_a_negative_prompt_is_drawn_like_a_prompt_of_the_same_seed(pipe: Pipeline) -> None:
    negative = our_conditions(
        pipe, prompt="a fox", negative_prompt="a cat", prior_negative_prompt="", **SETTINGS
    ).uncond.image_embedding
    assert torch.equal(negative, embedding(pipe, "a cat"))


def test_a_mix_is_the_weighted_sum(pipe: Pipeline) -> None:
    fox, grey = embedding(pipe, "a fox"), embedding(pipe, GREY)
    vector = kandinsky.Embedding(np.linspace(-1, 1, WIDTH))
    mixed = embedding(pipe, kandinsky.mix(["a fox", GREY, vector], [0.5, -2.0, 3.0]))
    wanted = 0.5 * fox - 2.0 * grey + 3.0 * torch.linspace(-1, 1, WIDTH)
    assert torch.allclose(mixed, wanted, atol=1e-6)
    assert torch.equal(embedding(pipe, kandinsky.mix(["a fox"], [1.0])), fox)


def test_texts_of_a_mix_are_drawn_one_after_the_other(pipe: Pipeline) -> None:
    twice = embedding(pipe, kandinsky.mix(["a fox", "a fox"], [1.0, 0.0]))
    assert torch.equal(twice, embedding(pipe, "a fox"))
    second = embedding(pipe, kandinsky.mix(["a fox", "a fox"], [0.0, 1.0]))
    assert not torch.equal(second, twice)


def test_rows_of_a_batch_are_what_they_are_alone(pipe: Pipeline) -> None:
    prompts: list[Any] = ["a fox", kandinsky.mix([GREY, "a cat", "a fox"]), GREY, kandinsky.mix(["a cat", RED])]
    negatives = ["", "a house", None, "a cat"]
    together = our_conditions(pipe, prompt=prompts, negative_prompt=negatives, **SETTINGS)
    for i, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = our_conditions(pipe, prompt=prompt, negative_prompt=negative, **(SETTINGS | {"seed": 3 + i}))
        for name in ("cond", "uncond"):
            ours, theirs = (getattr(c, name).image_embedding for c in (together, alone))
            assert torch.allclose(ours[i : i + 1], theirs, atol=1e-5)


def test_what_is_drawn() -> None:
    request = Request(
        ["a", kandinsky.mix([GREY, "b", "c"]), kandinsky.mix(["d", GREY])], negative_prompt=["x", "", "y"], seed=0
    )
    rows = request.rows()
    assert [(d.place, d.rows, d.texts, d.uncond) for d in draws_of(rows, guided=True)] == [
        (0, (0, 2), ("a", "d"), ("x", "y")),
        (1, (1,), ("b",), ("",)),
        (2, (1,), ("c",), ("",)),
        (None, (0, 2), ("x", "y"), ("x", "y")),
    ]
    assert [d.place for d in draws_of(rows, guided=False)] == [0, 1, 2]
    assert draws_of(Request(GREY, seed=0).rows(), guided=True) == []


def test_steps_are_counted_over_the_whole_request(pipe: Pipeline) -> None:
    prompts = [kandinsky.mix(["a fox", "a cat"]), "a fox", GREY]
    request, batches = batches_of(pipe, 1, {"prompt": prompts, "negative_prompt": "a house", **SETTINGS})
    run = encode(pipe.model, request, batches)
    steps = [event for event in run if isinstance(event, Denoising)]
    # Three texts of prompts and three negatives, two steps each.
    assert [event.step for event in steps] == list(range(1, 13))
    assert {event.total for event in steps} == {12}


def test_a_text_that_is_too_long_is_warned_of_once(pipe: Pipeline) -> None:
    long = "a fox " * 20
    events = list(pipe.stream([long, "a cat"], count=2, **SETTINGS))
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "was not read" in warning.message
    assert events.index(warning) < events.index(next(e for e in events if isinstance(e, Denoising)))
    assert [event for event in events if isinstance(event, Encoding)] == [Encoding("text")] * 2


@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_the_message_on_a_long_text_tells_what_was_read_from_what_was_not(pipe: Pipeline, end: str) -> None:
    text = " ".join(["a fox"] * 20)
    (warning,) = [e.message for e in pipe.stream(text + end, **SETTINGS) if isinstance(e, Warned)]
    dropped, read = re.findall("'(.*?)'", warning)
    assert f"{read} {dropped}" == text


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a fox", "so it cannot read a text"),
        (GREY, "so it cannot read an image"),
        (kandinsky.Embedding([0.1] * WIDTH), "needs its negative too"),
        (kandinsky.mix([kandinsky.Embedding([0.1] * WIDTH), "a fox"]), "cannot read a text"),
    ],
)
def test_without_a_prior(tiny: Checkpoints, prompt: Any, words: str) -> None:
    pipe = tiny.kept_own(prior=False)
    with pytest.raises(RequestError, match=words):
        pipe.stream(prompt, **SETTINGS)


def test_an_embedding_needs_no_prior(tiny: Checkpoints) -> None:
    pipe, whole = tiny.kept_own(prior=False), tiny.kept_own()
    assert sorted(pipe.model.modules) == ["movq", "unet"]
    prompt = kandinsky.Embedding([0.2] * WIDTH, [0.1] * WIDTH)
    (ours,), (theirs,) = (p.generate(prompt, **SETTINGS).images for p in (pipe, whole))
    assert ours.tobytes() == theirs.tobytes()
    assert pipe.generate(kandinsky.Embedding([0.2] * WIDTH), guidance_scale=1.0, **SETTINGS).images


@pytest.mark.parametrize("prompt", [kandinsky.Embedding([0.1] * 3), kandinsky.mix(["a fox", torch.ones(3)])])
@pytest.mark.parametrize("prior", [None, False])
def test_an_embedding_of_another_size(tiny: Checkpoints, prompt: Any, prior: bool | None) -> None:
    if prior is False and not isinstance(prompt, kandinsky.Embedding):
        prompt = kandinsky.mix([torch.ones(3)])
    with pytest.raises(RequestError, match=f"3 numbers does not fit this decoder, which takes {WIDTH}"):
        tiny.kept_own(prior=prior).stream(prompt, **SETTINGS)


def test_an_unguided_prior_is_one_plain_trajectory(pipe: Pipeline) -> None:
    stage: PriorStage = pipe.model.conditioner.stage  # type: ignore[attr-defined]
    prepared = stage.prepare([stage.encode_text("a fox")], 2)
    run = stage.sample(prepared, pipe._rng([3]), 1, 2, None)
    assert torch.equal(returned(run), embedding(pipe, "a fox", prior_guidance_scale=1.0))


def test_padding_of_texts_is_left_out_and_changes_nothing(pipe: Pipeline) -> None:
    stage: PriorStage = pipe.model.conditioner.stage  # type: ignore[attr-defined]
    texts = ["a fox", "a red fox and a blue cat"]
    cut = [stage.encode_text(text) for text in texts]
    padded = [stage.encode_text(text, padded=True) for text in texts]
    lengths = [text.condition.text_hidden.shape[1] for text in cut]
    assert lengths == [int(text.condition.text_mask.sum()) for text in padded]
    assert lengths[0] < lengths[1] < padded[0].condition.text_hidden.shape[1]
    x = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (stage.prepare(texts, 2).step(x, 500.0) for texts in (cut, padded))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
