"""Adapters and learned words in the facade: diffusers' names for what our pipelines do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kandinsky.adapters.lora import Adapter, adapter_of, attach
from kandinsky.checkpoints.lora import choose_places, write_lora
from kandinsky.checkpoints.textual_inversion import write_original_words, write_words
from kandinsky.compat.diffusers import Kandinsky3Pipeline, KandinskyCombinedPipeline, KandinskyPriorPipeline
from kandinsky.core.errors import CheckpointError, RequestError
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import WIDTH, TextImageCheckpoints

QUICK: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}


def write_adapter(pipe: Any, file: Path, seed: int = 0) -> Path:
    """An adapter of the U-Net, none of whose numbers is zero."""
    network = pipe.model.network
    attach(network, Adapter.new(network, choose_places(network), 2), "made")
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapter_of(network, "made").parameters():
            value.add_(torch.randn(value.shape, generator=draws))
    return write_lora(file, {"unet": (network, adapter_of(network, "made"))})


@pytest.fixture(scope="module")
def files(one_text: OneTextCheckpoints, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adapters")
    first = write_adapter(one_text.ours(), root / "first.safetensors")
    return first, write_adapter(one_text.ours(), root / "second.safetensors", seed=1)


def test_adapters_come_act_and_go(one_text: OneTextCheckpoints, files: tuple[Path, Path]) -> None:
    pipe = Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder")
    pipe.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        found: np.ndarray = pipe("a", generator=torch.Generator().manual_seed(0), **QUICK).images
        return found

    bare = draw()
    pipe.load_lora_weights(files[0].parent, weight_name=files[0].name, adapter_name="one")
    one = draw()
    assert not np.array_equal(one, bare)
    ours = one_text.ours()
    ours.load_lora(files[0])
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([5])
    hidden, mask = torch.randn(1, 3, pipe.unet.config.encoder_hid_dim), torch.ones(1, 3)
    from kandinsky.networks.unet3 import UNet3Condition

    with torch.no_grad():
        said = ours.model.network(x, t, UNet3Condition(hidden, mask))  # type: ignore[operator]
        assert torch.equal(pipe.unet(x, t, hidden, mask).sample, said)
    pipe.load_lora_weights(files[1], adapter_name="two")
    assert pipe.get_active_adapters() == ["two"]
    pipe.set_adapters(["one", "two"])
    assert pipe.get_active_adapters() == ["one", "two"]
    assert not np.array_equal(draw(), one)
    pipe.set_adapters("one")
    assert pipe.get_active_adapters() == ["one"]
    assert np.array_equal(draw(), one)
    pipe.fuse_lora()
    assert np.allclose(draw(), one, atol=1e-3)
    pipe.unfuse_lora()
    assert np.array_equal(draw(), one)
    pipe.set_adapters(["one", "two"], [0.0, 0.0])
    assert np.array_equal(draw(), bare)
    with pytest.raises(RequestError, match="2 adapters were given 1"):
        pipe.set_adapters(["one", "two"], [0.5])
    with pytest.raises(RequestError, match="'three'"):
        pipe.set_adapters("three")
    pipe.delete_adapters("two")
    pipe.unload_lora_weights()
    assert pipe.get_active_adapters() == []
    assert np.array_equal(draw(), bare)


def test_an_adapter_of_another_model(text_image: TextImageCheckpoints, files: tuple[Path, Path]) -> None:
    text_image.ours()
    combined = KandinskyCombinedPipeline.from_pretrained(text_image.root / "decoder", prior=text_image.root / "prior")
    with pytest.raises(CheckpointError, match="made for another model"):
        combined.load_lora_weights(files[0])


def word_rows() -> dict[str, dict[str, torch.Tensor]]:
    draws = torch.Generator().manual_seed(3)
    names = ("text_encoder", "prior_text_encoder")
    return {"zwxq": {name: torch.randn(1, WIDTH, generator=draws) for name in names}}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_words_of_the_encoders_that_a_pipeline_has(form: str, text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    ours = text_image.ours()
    write = write_words if form == "safetensors" else write_original_words
    file = write(tmp_path / f"learned_embeds.{form}", word_rows())  # type: ignore[operator]
    prior = KandinskyPriorPipeline.from_pretrained(text_image.root / "prior")
    prior.set_progress_bar_config(disable=True)
    told: dict[str, Any] = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    before = prior("a zwxq", **told).image_embeds
    prior.load_textual_inversion(tmp_path)
    told["generator"] = torch.Generator().manual_seed(0)
    after = prior("a zwxq", **told).image_embeds
    assert not torch.equal(after, before)
    combined = KandinskyCombinedPipeline.from_pretrained(text_image.root / "decoder", prior=text_image.root / "prior")
    combined.load_textual_inversion(file)
    assert ours.load_words(file) == ["zwxq"]
    for name in ("tokenizer", "prior_tokenizer"):
        native = getattr(combined, name).native
        assert len(native.word_ids("zwxq")) == 1
    with pytest.raises(RequestError, match="in the vocabulary already"):
        combined.load_textual_inversion(file)


def test_words_for_nobody(one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    one_text.ours()
    pipe = Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder")
    rows = {"zwxq": {"prior_text_encoder": torch.randn(1, WIDTH)}}
    with pytest.raises(CheckpointError, match="It has: text_encoder"):
        pipe.load_textual_inversion(write_words(tmp_path / "words.safetensors", rows))
