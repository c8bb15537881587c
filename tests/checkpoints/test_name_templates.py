"""Templates found by form are those that their patterns match, in order."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.checkpoints.keymap import Templates, _pattern

TEMPLATES = [
    "a.{i}.b.{p}",
    "a.0.b.{p}",
    "a.{i}.b.weight",
    "a.{i}.{j}.{i}.{p}",
    "{w}.b",
    "x.{w}.{w}",
    "in_proj_{p}",
    "a",
    "a.{p}",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "x", "0", "7", "12", "٣", "weight", "bias", "in_proj_bias", ""]), max_size=5)
)
def test_what_fits_is_what_the_patterns_match(words: list[str]) -> None:
    name = ".".join(words)
    expected = [(k, match.groupdict()) for k, t in enumerate(TEMPLATES) if (match := _pattern(t).fullmatch(name))]
    assert list(Templates(TEMPLATES).matches(name)) == expected


def test_patterns_are_strict() -> None:
    assert _pattern("a.{i}.{p}").fullmatch("a.10.bias")
    assert not any(_pattern("a.{i}.{p}").fullmatch(name) for name in ("aX10.bias", "a.x.bias", "a.1.gain"))
    assert isinstance(_pattern("a"), re.Pattern)
