"""Weights of words act on the states of every text encoder that an image listens to, and weight 1 changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.conditioning.conditions import Conditions
from kandinsky.conditioning.weighted_texts import token_weights, weighted_states
from kandinsky.core.events import Warned
from kandinsky.core.prompt_weights import parse_weights
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from tests.requests import our_conditions
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

GENERATIONS = ("first", "second", "text_image", "tiny", "one_text", "third")
WORDS = {"first": "p0 p1 p2", "second": "p0 p1 p2", "third": "p0 p1 p2"}
"""Texts of vocabularies that have these words alone; of all others any."""


@pytest.fixture(scope="module")
def pipes(
    first_release: Path,
    second_release: Path,
    text_image: TextImageCheckpoints,
    tiny: Checkpoints,
    one_text: OneTextCheckpoints,
    third_release: Path,
) -> dict[str, Any]:
    """A pipeline of each kind of conditioner, in the layouts that wire it differently."""

    def original(folder: Path) -> Pipeline:
        return kandinsky.load(folder, device="cpu", dtype="float32", batch_size=1)

    return {
        "first": original(first_release),
        "second": original(second_release),
        "text_image": text_image.kept(),
        "tiny": tiny.kept_own(),
        "one_text": one_text.kept(),
        "third": original(third_release),
    }


def prompt_of(name: str, before: str = "", after: str = "") -> str:
    first, second, third = WORDS.get(name, "a red fox").split()
    return f"{first} {before}{second}{after} {third}"


def draw(pipe: Pipeline, prompt: Any, **fields: Any) -> list[bytes]:
    settings: dict[str, Any] = {"steps": 2, "seed": 1, "width": 64, "height": 64}
    if "prior" in pipe.model.modules:
        settings["prior_steps"] = 2
    return [image.tobytes() for image in pipe.generate(prompt, **settings | fields)]


@pytest.mark.parametrize("name", GENERATIONS)
def test_weight_1_changes_nothing_to_the_bit(pipes: dict[str, Any], name: str) -> None:
    plain = draw(pipes[name], prompt_of(name))
    assert draw(pipes[name], prompt_of(name), prompt_weights=True) == plain
    assert draw(pipes[name], prompt_of(name, "(", ":1.0)"), prompt_weights=True) == plain
    assert draw(pipes[name], f"({prompt_of(name)}:1)", prompt_weights=True) == plain


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_weight_changes_the_image(pipes: dict[str, Any], name: str) -> None:
    plain, settings = draw(pipes[name], prompt_of(name)), {"prompt_weights": True}
    found = [draw(pipes[name], prompt_of(name, "(", f":{weight})"), **settings) for weight in ("1.5", "0.5", "-1")]
    assert len({plain[0], *(images[0] for images in found)}) == 4
    assert draw(pipes[name], prompt_of(name, "(", ":1.1)"), **settings) == draw(
        pipes[name], prompt_of(name, "(", ")"), **settings
    )


@pytest.mark.parametrize("name", GENERATIONS)
def test_negative_prompts_have_weights_too(pipes: dict[str, Any], name: str) -> None:
    negative = WORDS.get(name, "a blue cat")
    fields: dict[str, Any] = {"guidance_scale": 3.0}
    plain = draw(pipes[name], prompt_of(name), negative_prompt=negative, **fields)
    fields["prompt_weights"] = True
    assert draw(pipes[name], prompt_of(name), negative_prompt=f"({negative}:1)", **fields) == plain
    assert draw(pipes[name], prompt_of(name), negative_prompt=f"({negative}:1.5)", **fields) != plain


def moved(states: Tensor, empty: Tensor, places: list[int], weight: float) -> Tensor:
    """What the arithmetic is by hand: the weighted tokens away from the empty text's, all others as they are."""
    found = states.clone()
    found[:, places] = empty[:, places] + weight * (states[:, places] - empty[:, places])
    return found


@pytest.mark.parametrize("name", ["first", "text_image"])
def test_every_encoder_of_a_decoder_is_weighted_by_its_own_tokens(pipes: dict[str, Any], name: str) -> None:
    def read(prompt: str) -> Conditions:
        return our_conditions(pipes[name], prompt=prompt, seed=1, prompt_weights=True)

    plain, empty, weighted = (read(text).cond for text in (prompt_of(name), "", prompt_of(name, "(", ":1.5)")))
    for encoder, part in zip(
        pipes[name].model.conditioner.encoders, ("text_hidden", "second_text_hidden"), strict=False
    ):
        spans = encoder.tokenizer.spans(prompt_of(name), 77)
        begin = prompt_of(name).index(" ") + 1
        places = [
            k for k, (start, end) in enumerate(spans) if end > start >= begin and end <= prompt_of(name).rindex(" ")
        ]
        assert places
        wanted = moved(getattr(plain, part), getattr(empty, part), places, 1.5)
        torch.testing.assert_close(getattr(weighted, part), wanted)
    assert torch.equal(weighted.text_embedding, plain.text_embedding)
    if name == "first":
        assert not torch.equal(weighted.second_text_hidden, plain.second_text_hidden)


def test_the_states_of_the_newest_decoders_are_weighted(pipes: dict[str, Any]) -> None:
    def read(prompt: str) -> Tensor:
        hidden: Tensor = our_conditions(pipes["one_text"], prompt=prompt, seed=1, prompt_weights=True).cond.hidden
        return hidden

    plain, weighted = read("a fox"), read("a (fox:2)")
    reader = pipes["one_text"].model.conditioner.reader
    tokens = reader.tokenizer.encode([""], 6)
    empty = torch.cat([reader.read(tokens.ids[0], tokens.mask[0]), plain.new_zeros(1, 1, plain.shape[2])], dim=1)
    # A token a letter: "a", the space, "fox", and the mark of the end.
    torch.testing.assert_close(weighted, moved(plain, empty, [2, 3, 4], 2.0))
    assert torch.equal(weighted[:, :2], plain[:, :2])


def test_a_prior_reads_weighted_states(pipes: dict[str, Any]) -> None:
    stage = pipes["tiny"].model.conditioner.stage
    plain, weighted = stage.encode_text("a red fox"), stage.encode_weighted("a (red:1.5) fox")
    spans = stage.tokenizer.spans("a red fox", 16)
    ids = stage.tokenizer.encode([""], 16).ids[:, : len(spans)]
    places = [k for k, (begin, end) in enumerate(spans) if begin >= 1 and end <= 5]
    wanted = moved(plain.condition.text_hidden, stage.text(ids).hidden, places, 1.5)
    torch.testing.assert_close(weighted.condition.text_hidden, wanted)
    assert torch.equal(weighted.condition.text_embedding, plain.condition.text_embedding)
    assert weighted.text == "a red fox"


def test_texts_of_a_mix_have_weights(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    plain = draw(pipe, kandinsky.mix(["a red fox", "a cat"]))
    assert draw(pipe, kandinsky.mix(["a (red:1) fox", "a cat"]), prompt_weights=True) == plain
    assert draw(pipe, kandinsky.mix(["a (red:1.5) fox", "a cat"]), prompt_weights=True) != plain


def test_a_batch_of_many_weights_is_each_alone(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    texts = ["a (red:1.5) fox", "a red fox", "a red (fox:0.5)"]
    alone = [draw(pipe, text, prompt_weights=True, seed=3 + k)[0] for k, text in enumerate(texts)]
    assert draw(pipe, texts, prompt_weights=True, seed=[3, 4, 5]) == alone
    fields: dict[str, Any] = {"steps": 2, "prior_steps": 2, "width": 64, "height": 64}
    mixed = [Request(texts[0], prompt_weights=on, seed=3, **fields) for on in (True, False, True)]
    found = [result[0].tobytes() for result in pipe.generate_batch(mixed)]
    assert found == [alone[0], draw(pipe, texts[0], seed=3)[0], alone[0]]
    together = np.stack(
        [np.asarray(one) for one in pipe.generate(texts, prompt_weights=True, seed=[3, 4, 5], **fields)]
    )
    shared = tiny.kept_own(batch_size=3).generate(texts, prompt_weights=True, seed=[3, 4, 5], **fields)
    assert np.abs(np.stack([np.asarray(one) for one in shared]).astype(int) - together).max() <= 1


def test_kept_texts_know_their_weights(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    bare, texts = one_text.kept(), ["a fox", "a (fox:1.5)", "a (fox:0.5)"]
    wanted = [draw(bare, text, prompt_weights=True) for text in texts]
    assert len({images[0] for images in wanted}) == 3
    for _ in range(2):
        pipe = one_text.ours(prompt_cache=tmp_path / "kept")
        assert [draw(pipe, text, prompt_weights=True) for text in texts] == wanted
    streamed = one_text.ours(offload="layers", prompt_cache=tmp_path / "other")
    assert [draw(streamed, text, prompt_weights=True) for text in texts] == wanted


def test_learned_words_in_brackets(tiny: Checkpoints, tmp_path: Path) -> None:
    pipe = tiny.kept_own()
    torch.manual_seed(0)
    rows = {"zwx": {"prior_text_encoder": torch.randn(2, 16)}}
    pipe.load_words(write_words(tmp_path / "zwx.safetensors", rows))
    plain = draw(pipe, "a zwx")
    assert draw(pipe, "a (zwx:1)", prompt_weights=True) == plain
    assert draw(pipe, "a (zwx:1.5)", prompt_weights=True) != plain
    tokenizer = pipe.model.conditioner.stage.tokenizer  # type: ignore[attr-defined]
    spans = tokenizer.spans("a zwx", 16)
    assert spans.count(max(spans)) == 2
    weights = token_weights(spans, parse_weights("a (zwx:1.5)"))
    assert (weights == 1.5).sum() == 2


@pytest.mark.parametrize("name", ["first", "tiny", "one_text"])
def test_notes_on_cut_texts_are_without_brackets(pipes: dict[str, Any], name: str) -> None:
    pipe = pipes[name]
    text = " ".join(["(p0:1.5)" if name in WORDS else "(fox:1.5)"] * 100)
    events = list(pipe.stream(text, steps=1, seed=1, width=64, height=64, prompt_weights=True))
    warned = [event for event in events if isinstance(event, Warned) and "was not read" in event.message]
    assert len(warned) == 1
    assert "(" not in warned[0].message
    assert warned[0].text == text
    assert warned[0].message in events[-1].result.warnings


def test_a_token_across_a_bracket_has_the_mean() -> None:
    text = parse_weights("re(dd:1.5) fox")
    assert token_weights([(0, 0), (0, 4), (4, 8)], text).tolist() == [1.0, 1.25, 1.0]


def test_half_precision_is_weighted_in_full() -> None:
    states, empty = torch.full((1, 2, 1), 1.0).half(), torch.full((1, 2, 1), 0.5).half()
    found = weighted_states(states, empty, torch.tensor([3.0]))
    assert found.dtype is torch.float16
    assert found.flatten().tolist() == [2.0, 1.0]


def test_weights_that_are_not_read_are_spoken_of(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    fields: dict[str, Any] = {"steps": 1, "prior_steps": 1, "seed": 1, "width": 64, "height": 64}
    with pytest.warns(kandinsky.KandinskyWarning, match=r"'\(red:1\.5\)' is read as it is written"):
        result = pipe.generate(["a (red:1.5) fox", "a fox"], **fields)
    assert len(result.warnings) == 1
    assert not pipe.generate("a (red:1.5) fox", prompt_weights=True, **fields).warnings


def test_a_negative_prompt_that_does_nothing_is_spoken_of(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    fields: dict[str, Any] = {"steps": 1, "prior_steps": 1, "seed": 1, "width": 64, "height": 64}
    fields |= {"negative_prompt": "blue", "guidance_scale": 1.0}
    with pytest.warns(kandinsky.KandinskyWarning, match="The negative prompt 'blue' does nothing"):
        pipe.generate("a fox", prior_guidance_scale=1.0, **fields)
    assert not pipe.generate("a fox", prior_guidance_scale=3.0, **fields).warnings
