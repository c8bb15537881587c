"""Weights in texts: what is read, what is refused, and what is said of texts that are not read for them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import Metadata, summary
from kandinsky.core.prompt_weights import OTHER_SYNTAX, parse_weights, read_as_written
from kandinsky.core.requests import Request, mix

READ: dict[str, list[tuple[str, float]]] = {
    "a fox": [("a fox", 1)],
    "a (red:1.3) fox": [("a ", 1), ("red", 1.3), (" fox", 1)],
    "(red) fox": [("red", 1.1), (" fox", 1)],
    "((red))": [("red", 1.21)],
    "(((red)))": [("red", 1.331)],
    "[red] fox": [("red", 0.909091), (" fox", 1)],
    "([red])": [("red", 1)],
    "(red (fox:1.5):2)": [("red ", 2), ("fox", 3)],
    "(a red fox:1)": [("a red fox", 1)],
    "(red: .5 )": [("red", 0.5)],
    "(red:-1)": [("red", -1)],
    "(red:0)": [("red", 0)],
    "(ratio 16:9:1.2)": [("ratio 16:9", 1.2)],
    r"\(red\) \[fox\] \\ \:": [(r"(red) [fox] \ :", 1)],
    r"(note\: this)": [("note: this", 1.1)],
    "a: b": [("a: b", 1)],
    "a\\b": [("a\\b", 1)],
    "()": [],
    "(красный:1.3) 狐": [("красный", 1.3), (" 狐", 1)],
}


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text: str) -> None:
    found = parse_weights(text)
    assert found.text == "".join(part for part, _ in READ[text])
    assert list(found.weights) == [weight for part, weight in READ[text] for _ in part]


REFUSED = {
    "a (red fox": (3, r"'\(' is not closed"),
    "a ((red) fox": (3, r"'\(' is not closed"),
    "a red) fox": (6, r"'\)' closes nothing"),
    "(red]": (5, r"'\]' closes nothing"),
    "a [red": (3, r"'\[' is not closed"),
    "(a:x)": (3, "the weight 'x' is no number"),
    "(a:)": (3, "the weight '' is no number"),
    "(a:nan)": (3, "the weight 'nan' is no number"),
    "(a:inf)": (3, "the weight 'inf' is no number"),
    "(a:1e9)": (3, "a weight of 1e9 is outside -10 to 10"),
    "(a:1e999)": (3, "a weight of 1e999 is outside"),
    "(a:1.3.1)": (3, r"the weight '1\.3\.1' is no number"),
    "(a:1,3)": (3, "the weight '1,3' is no number"),
    "(a:१)": (3, "is no number"),
    "((a:5):5)": (1, "a weight of 25 is outside"),
    "(a:(b))": (3, "the weight '[(]b[)]' is no number"),
    "(meet at 12:30 pm)": (12, "the weight '30 pm' is no number"),
    "a [cat:dog:0.5]": (3, "is not offered"),
    "a [cat|dog]": (3, "is not offered"),
    "a <lora:style:0.8> fox": (3, "Load adapters with lora="),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_names_the_place(text: str) -> None:
    place, words = REFUSED[text]
    with pytest.raises(RequestError, match=words) as caught:
        Request(text, prompt_weights=True)
    assert str(caught.value).startswith(f"prompt: at character {place}, in '")
    assert Request(text).prompt == text


def test_brackets_have_a_depth() -> None:
    assert parse_weights("[" * 64 + "a" + "]" * 64).text == "a"
    with pytest.raises(RequestError, match="more than 64 brackets are open"):
        parse_weights("[" * 10_000 + "a" * 10_000 + "]" * 10_000)


def test_which_text_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"^prompt 2: at character 1"):
        Request(["a", "(b"], prompt_weights=True)
    with pytest.raises(RequestError, match=r"^negative_prompt: at character 2"):
        Request("a", negative_prompt="b)", prompt_weights=True)
    with pytest.raises(RequestError, match=r"^prior_negative_prompt 1: at character 2"):
        Request(["a", "b"], prior_negative_prompt=["c)", None], prompt_weights=True)
    with pytest.raises(RequestError, match=r"^prompt: at character 3"):
        Request(mix(["a", "b (c"]), prompt_weights=True)


@given(st.text(alphabet="ab ()[]:\\.1|", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_weights(text)
    except RequestError:
        return
    assert len(found.text) == len(found.weights)
    assert all(abs(weight) <= 10 for weight in found.weights)


def test_the_switch_is_a_field() -> None:
    assert Request("a").prompt_weights is False
    assert Request("a", prompt_weights=None).prompt_weights is False  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="prompt_weights must be True or False, not 'yes'"):
        Request("a", prompt_weights="yes")  # type: ignore[arg-type]
    request = Request("(a:1.2)", prompt_weights=True, seed=1)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    assert "Prompt weights: True" in summary(Metadata(request.to_json()))
    assert "Prompt weights" not in summary(Metadata(Request("a", seed=1).to_json()))


SAID = {
    "a (very cute:1.3) dog": "'(very cute:1.3)' is read as it is written. Give prompt_weights=True",
    "a {red|green} apple": "'{red|green}' is read as it is written. Give several prompts",
    "a __colour__ fox": "'__colour__' is read as it is written.",
    "@prompts": "'@prompts' is read as it is written. A list of prompts is a file",
    "a fox <lora:style:1>": "'<lora:style:1>' is read as it is written. Adapters are loaded with lora=",
    "a [cat:dog:0.5]": "'[cat:dog:0.5]' is read as it is written. A text is the same in all steps",
}


@pytest.mark.parametrize("text", SAID)
def test_what_is_said_of_other_syntax(text: str) -> None:
    assert read_as_written(text).startswith(SAID[text])


@pytest.mark.parametrize("text", ["a fox (in snow)", "16:9", "a [sic] b", "smile :)", "{a}", "me@home", "a_b", ""])
def test_ordinary_texts_are_not_spoken_of(text: str) -> None:
    assert OTHER_SYNTAX.search(text) is None
