"""The facades have diffusers' names: classes, arguments in their order, and defaults."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest

from kandinsky.compat import diffusers as compat
from kandinsky.compat import kandinsky2
from kandinsky.compat.diffusers.pipelines import PIPELINES


def arguments(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_arguments_and_defaults(name: str) -> None:
    ours, theirs = PIPELINES[name], getattr(diffusers, name)
    assert arguments(ours.__call__) == arguments(theirs.__call__)
    assert set(arguments(ours.__init__)) == set(arguments(theirs.__init__))
    if hasattr(theirs, "interpolate"):
        assert arguments(ours.interpolate) == arguments(theirs.interpolate)
    assert getattr(ours, "_callback_tensor_inputs", None) is not None or "Combined" in name


def test_every_name_exists_in_diffusers() -> None:
    elsewhere = {
        "AttnAddedKVProcessor",
        "AttnAddedKVProcessor2_0",
        "AttnProcessor",
        "AttnProcessor2_0",
        "CLIPImageProcessor",
        "CLIPTextModelWithProjection",
        "CLIPTokenizer",
        "CLIPVisionModelWithProjection",
        "KandinskyPriorPipelineOutput",
        "MultilingualCLIP",
        "T5EncoderModel",
        "T5Tokenizer",
        "XLMRobertaTokenizerFast",
        "load_image",
        "make_image_grid",
    }
    for name in compat.__all__:
        assert getattr(compat, name).__name__ == name
        assert name in elsewhere or hasattr(diffusers, name)
    assert set(PIPELINES) <= set(compat.__all__)


def test_the_page_names_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
    assert [name for name in compat.__all__ if f"`{name}`" not in page] == []
    for kind in (kandinsky2.Kandinsky2, kandinsky2.Kandinsky2_1, kandinsky2.Kandinsky2_2):
        methods = [name for name in vars(kind) if name.startswith(("generate_", "mix_", "encode_", "create_"))]
        assert methods
        assert [name for name in methods if f"`{name}`" not in page] == []
