"""Texts that were read once are not read again, nor is their encoder brought."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kandinsky
from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.core.errors import OutputError, RequestError
from kandinsky.engine.pipeline import Pipeline
from tests.engine.test_offload import pixels
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints


def reads(pipe: Pipeline) -> list[int]:
    """Grows by one for each text that the encoder reads."""
    found: list[int] = []
    pipe.model.modules["text_encoder"].blocks[0].register_forward_pre_hook(  # type: ignore[index, union-attr]
        lambda *_: found.append(1)
    )
    return found


def brings(pipe: Pipeline) -> list[nn.Module]:
    """Grows by each network whose weights are brought from its file."""
    found: list[nn.Module] = []
    residence = pipe._residency
    if residence is not None:
        stored = residence.stored

        class Noted(dict[nn.Module, LazyWeights]):
            def __getitem__(self, network: nn.Module) -> LazyWeights:
                found.append(network)
                return super().__getitem__(network)

        residence.stored = Noted(stored)
    return found


@pytest.mark.parametrize("offload", mostly_slow([None, "parts", "layers"], "layers"))
def test_the_second_request_reads_nothing(one_text: OneTextCheckpoints, tmp_path: Path, offload: str | None) -> None:
    folder = tmp_path / "prompts"
    wanted = pixels(one_text.kept())
    for expected in (2, 0):
        pipe = one_text.ours(offload=offload, prompt_cache=folder)
        count, brought = reads(pipe), brings(pipe)
        assert pixels(pipe) == wanted
        assert len(count) == expected
        assert (pipe.model.modules["text_encoder"] in brought) is bool(offload and expected)
    assert len(list(folder.iterdir())) == 2
    assert pixels(one_text.ours(prompt_cache=folder), "another text") != wanted
    assert len(list(folder.iterdir())) == 3


def test_what_tells_texts_apart(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    """The weights of the encoder, wherever they lie, and the dtype."""
    folder = tmp_path / "prompts"
    assert one_text.oracle
    pixels(one_text.ours(prompt_cache=folder))
    moved = Path(shutil.copytree(one_text.root / "decoder", tmp_path / "moved"))
    told: dict[str, Any] = {"device": "cpu", "dtype": "float32", "prompt_cache": folder}
    pipe = kandinsky.load(moved, **told)
    count = reads(pipe)
    pixels(pipe)
    assert not count
    (file,) = (moved / "text_encoder").glob("*.safetensors")
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    state["encoder.block.1.layer.0.SelfAttention.q.weight"][0, 0] += 1
    save_file(state, file, metadata={"format": "pt"})
    for pipe in (kandinsky.load(moved, **told), one_text.ours(prompt_cache=folder, dtype="float64")):
        count = reads(pipe)
        pixels(pipe)
        assert len(count) == 2


def test_a_damaged_file_is_read_anew(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    wanted = pixels(one_text.ours(prompt_cache=tmp_path))
    for file, damage in zip(sorted(tmp_path.iterdir()), (b"", None), strict=True):
        if damage is None:
            save_file({"states": torch.zeros(1, 2, 20)}, file)
        else:
            file.write_bytes(damage)
    pipe = one_text.ours(prompt_cache=tmp_path)
    count = reads(pipe)
    assert pixels(pipe) == wanted
    assert len(count) == 2
    assert pixels(pipe) == wanted
    assert len(count) == 2


def test_learned_words_and_adapters_are_not_remembered(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    from kandinsky.adapters.lora import Adapter, Place, attach
    from kandinsky.engine.text_encoders import learn_word, text_encoders

    pipe = one_text.ours(prompt_cache=tmp_path)
    learn_word(text_encoders(pipe.model), "<toy>", {"text_encoder": torch.randn(1, 20)})
    pixels(pipe, "a <toy>", negative_prompt=None)
    assert not list(tmp_path.iterdir())
    encoder = pipe.model.modules["text_encoder"]
    attach(encoder, Adapter.new(encoder, [Place("blocks.0.q")], 2), "a")
    pixels(pipe, "a toy", negative_prompt=None)
    assert not list(tmp_path.iterdir())


def test_where_it_cannot_be(one_text: OneTextCheckpoints, tiny: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"prompt_cache is given.*Kandinsky 2\.2"):
        tiny.own(prompt_cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        pixels(one_text.ours(prompt_cache=tmp_path / "file"))
