"""Learned words from every source that diffusers' loader takes, under the names that are asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kandinsky.compat.diffusers import KandinskyV22PriorPipeline
from kandinsky.core.errors import CheckpointError, RequestError
from tests.compat.comparing import folder, seeded
from tests.tiny import Checkpoints

ROWS = torch.randn(2, 20, generator=seeded(4))
WEB_UI = {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "sks", "step": 100}


def taught(tiny: Checkpoints, *given: Any, **named: Any) -> Any:
    prior = KandinskyV22PriorPipeline.from_pretrained(folder(tiny, "prior"))
    prior.load_textual_inversion(*given, **named)
    return lambda prompt: prior(prompt, num_inference_steps=2, generator=seeded(1)).image_embeds


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_every_source_teaches_the_same_word(tiny: Checkpoints, tmp_path: Path) -> None:
    wanted = taught(tiny, {"sks": ROWS})("a sks")
    assert not torch.equal(wanted, taught(tiny, {"other": ROWS})("a sks"))
    sources: list[tuple[Any, dict[str, Any]]] = [
        (ROWS, {"token": "sks"}),
        ({"old": ROWS}, {"token": "sks"}),
        (WEB_UI, {}),
        ({**WEB_UI, "name": "old"}, {"token": "sks"}),
        (saved(tmp_path / "web.pt", WEB_UI), {}),
        (str(saved(tmp_path / "learned_embeds.bin", {"<old>": ROWS})), {"token": "sks"}),
        (tmp_path, {"weight_name": "web.pt"}),
        ([{"first": ROWS[:1]}, {"old": ROWS}], {"token": ["first", "sks"]}),
    ]
    for source, more in sources:
        assert torch.equal(taught(tiny, source, **more)("a sks"), wanted), (type(source), more)


def test_words_are_unlearned(tiny: Checkpoints) -> None:
    prior = KandinskyV22PriorPipeline.from_pretrained(folder(tiny, "prior"))

    def drawn(prompt: str) -> torch.Tensor:
        found: torch.Tensor = prior(prompt, num_inference_steps=2, generator=seeded(1)).image_embeds
        return found

    before = drawn("a sks dog zzq")
    prior.load_textual_inversion([{"sks": ROWS[:1]}, {"zzq": ROWS}])
    both = drawn("a sks dog zzq")
    prior.unload_textual_inversion("sks")
    one = drawn("a sks dog zzq")
    assert not torch.equal(both, before)
    assert not torch.equal(one, both)
    prior.unload_textual_inversion()
    assert torch.equal(drawn("a sks dog zzq"), before)
    prior.load_textual_inversion([{"sks": ROWS[:1]}, {"zzq": ROWS}])
    assert torch.equal(drawn("a sks dog zzq"), both)
    prior.unload_textual_inversion()
    with pytest.raises(RequestError, match="'sks' is no learned word"):
        prior.unload_textual_inversion(["sks"])


def test_what_teaches_nothing(tiny: Checkpoints, tmp_path: Path) -> None:
    for words, source, more in (
        ("Give token=", ROWS, {}),
        ("holds 2 words", {"a": ROWS, "b": ROWS}, {"token": "c"}),
        ("given 1 tokens", [{"a": ROWS}, {"b": ROWS}], {"token": ["a"]}),
        ("Did you mean 'weight_name'", {"a": ROWS}, {"weight_nam": "x"}),
    ):
        with pytest.raises(RequestError, match=words):
            taught(tiny, source, **more)
    with pytest.raises(CheckpointError, match="It has: prior_text_encoder"):
        taught(tiny, {"a": torch.randn(1, 7)})
