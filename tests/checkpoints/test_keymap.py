"""Renaming state dicts: there and back, and what is said of files that do not fit."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap, rename, stack, summary
from kandinsky.core.errors import CheckpointError

MAP = KeyMap(
    [
        rename("level.{i}.{j}.conv.{p}", "blocks.{i}.resnets.{j}.conv1.{p}"),
        stack("level.{i}.qkv.{p}", *(f"blocks.{{i}}.to_{x}.{{p}}" for x in "qkv")),
        rename("twice.{w}.{w}", "same.{w}"),
        rename("query", "token"),
    ],
    ignored=["blocks.{i}.position_ids"],
)


@st.composite
def native_states(draw: st.DrawFn) -> dict[str, Tensor]:
    names: set[str] = set()
    number, part = st.integers(0, 12), st.sampled_from(["weight", "bias"])
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["conv", "qkv", "twice", "query"]))
        i, j, p = draw(number), draw(number), draw(part)
        word = draw(st.from_regex(r"[a-z_0-9]{1,5}", fullmatch=True))
        names.add(
            {
                "conv": f"level.{i}.{j}.conv.{p}",
                "qkv": f"level.{i}.qkv.{p}",
                "twice": f"twice.{word}.{word}",
                "query": "query",
            }[kind]
        )
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {name: torch.randn((3 * rows, columns)) for name in sorted(names)}


@settings(max_examples=60, deadline=None)
@given(native_states())
def test_there_and_back(state: dict[str, Tensor]) -> None:
    foreign = MAP.to_foreign(state)
    back = MAP.to_native(dict(reversed(foreign.items())))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    names = [name for native in state for name in MAP.foreign_names(native) or []]
    assert sorted(names) == sorted(foreign)


def test_stacked_parts_lie_in_the_given_order() -> None:
    parts = {f"blocks.0.to_{x}.weight": torch.full((2, 1), float(k)) for k, x in enumerate("qkv")}
    stacked = MAP.to_native(parts)["level.0.qkv.weight"]
    assert stacked.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert all(part.is_contiguous() for part in MAP.to_foreign({"level.0.qkv.weight": stacked}).values())


def test_names_that_hold_nothing_are_passed_over() -> None:
    assert MAP.to_native({"blocks.3.position_ids": torch.ones(1)}) == {}


@pytest.mark.parametrize(
    "name", ["blocks.0.to_q.weights", "blocks.x.to_q.weight", "xblocks.0.to_q.bias", "token.weight", ""]
)
def test_unknown_foreign_names(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"1 tensors have names this network does not know") as caught:
        MAP.to_native({name: torch.ones(1), "token": torch.ones(1)})
    assert name in str(caught.value)


def test_unknown_native_names() -> None:
    assert MAP.foreign_names("level.0.qkv.gain") is None
    assert MAP.foreign_names("twice.a.b") is None
    with pytest.raises(CheckpointError, match=r"level\.0\.qkv\.gain has no name in this format"):
        MAP.to_foreign({"level.0.qkv.gain": torch.ones(3)})


def test_a_part_of_a_stack_is_missing() -> None:
    parts = {"blocks.7.to_q.weight": torch.ones(1), "blocks.7.to_v.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=re.escape("1 tensors are missing")) as caught:
        MAP.to_native(parts)
    assert "blocks.7.to_k.weight" in str(caught.value)


def test_parts_of_a_stack_differ() -> None:
    parts = {f"blocks.0.to_{x}.weight": torch.ones((1 + (x == "v"), 2)) for x in "qkv"}
    with pytest.raises(CheckpointError, match=r"different shapes: \(1, 2\), \(2, 2\)"):
        MAP.to_native(parts)


def test_a_summary_names_five_and_counts_the_rest() -> None:
    assert summary(["b", "a"]) == "a, b"
    assert summary(str(k) for k in range(8)) == "0, 1, 2, 3, 4 and 3 more"
