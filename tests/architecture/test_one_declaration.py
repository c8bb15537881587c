"""A field of a request is declared once: flags, lines of files, messages and metadata know it from there."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import pytest

from kandinsky.cli import main
from kandinsky.core import requests
from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import Metadata, summary
from kandinsky.core.requests import About, Each, Fields, Request, Row, Scale, Share, per_prompt
from kandinsky.jobs import rows


class Wider(Request):
    """A request with two fields more."""

    glitter: Annotated[Share | None, About("How much it glitters.", float, "0 is matt.", "Glitter")] = None
    warmth: Annotated[Each[Scale | None], About("How warm it is.", float, "1 is usual.")] = None


@pytest.fixture
def wider(monkeypatch: pytest.MonkeyPatch) -> type[Request]:
    """The library with those fields in its requests."""
    about = requests.about
    monkeypatch.setattr(requests, "about", lambda request=Wider: about(request))
    monkeypatch.setattr(rows, "Request", Wider)
    return Wider


def test_its_flag(wider: type[Request]) -> None:
    flags = {flag.name: flag for flag in main._request_flags()}
    assert flags["glitter"].opts == ["--glitter"]
    assert flags["glitter"].help == "How much it glitters."
    assert flags["warmth"].opts == ["--warmth"]


def test_its_place_in_a_line_of_a_file(wider: type[Request]) -> None:
    assert rows.request_of(rows.Row(1, {"prompt": "a", "glitter": 0.5}, Path()), {}).glitter == 0.5  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="Did you mean 'glitter'"):
        rows.request_of(rows.Row(1, {"prompt": "a", "gliter": 0.5}, Path()), {})


def test_its_limits(wider: type[Request]) -> None:
    with pytest.raises(RequestError, match=r"glitter 2 is not within 0 to 1\. 0 is matt\."):
        wider("a", glitter=2)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="warmth has 1 entries for 2 prompts"):
        wider(["a", "b"], warmth=[1.0])  # type: ignore[call-arg]


def test_its_metadata(wider: type[Request]) -> None:
    request = wider(["a", "b"], seed=1, glitter=0.5, warmth=[1.0, 2.0])  # type: ignore[call-arg]
    stored = json.loads(json.dumps(request.to_json()))
    assert stored["warmth"] == [1.0, 2.0]
    assert wider.from_json(stored) == request
    assert wider.from_json(request.alone(1).to_json()).warmth == 2.0  # type: ignore[attr-defined]
    assert "Glitter: 0.5" in summary(Metadata(stored))


def test_names_that_type_checkers_need_are_those_declared() -> None:
    assert ["prompt", *Fields.__annotations__] == list(Request.model_fields)
    assert {field.name for field in fields(Row)} == {*per_prompt(), "seed", "prompt_weights"}
