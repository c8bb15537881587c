"""Adapters on the embedded model: exact off, equal when merged, noted in images, one clear error each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import kandinsky
from kandinsky.adapters.lora import Adapter, adapter_of
from kandinsky.checkpoints.lora import choose_places, write_lora
from kandinsky.cli.generate import parse_lora
from kandinsky.cli.main import run
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.metadata import read_metadata
from kandinsky.engine.loras import adaptable
from kandinsky.engine.pipeline import Pipeline
from tests.parity.oracles import redraw
from tests.tiny_text_image import TextImageCheckpoints

QUICK: dict[str, Any] = {"steps": 2, "prior_steps": 2, "seed": 3}


@pytest.fixture
def pipe() -> Pipeline:
    return kandinsky.load(device="cpu")


def write(pipe: Pipeline, file: Path, *components: str, seed: int = 1) -> Path:
    networks = adaptable(pipe.model)
    parts = {}
    for name in components or ("unet", "prior_prior", "prior_text_encoder"):
        network = networks[name]
        parts[name] = (network, redraw(Adapter.new(network, choose_places(network), 2), seed, 0.2))
    return write_lora(file, parts)


def draw(pipe: Pipeline) -> np.ndarray:
    return np.asarray(pipe.generate("a red apple", **QUICK).images[0])


def test_a_loaded_adapter_acts_scales_and_comes_off(pipe: Pipeline, tmp_path: Path) -> None:
    before = draw(pipe)
    assert pipe.load_lora(write(pipe, tmp_path / "style.safetensors")) == "style"
    applied = draw(pipe)
    assert not np.array_equal(applied, before)
    pipe.set_lora_scale("style", 0.0)
    assert np.array_equal(draw(pipe), before)
    assert "lora" not in pipe.settings
    pipe.set_lora_scale("style", 1.0)
    assert np.array_equal(draw(pipe), applied)
    pipe.merge_loras()
    assert np.abs(draw(pipe).astype(int) - applied).max() <= 1
    pipe.unmerge_loras()
    assert np.array_equal(draw(pipe), applied)
    pipe.unload_lora("style")
    assert pipe.loras == {}
    assert np.array_equal(draw(pipe), before)


def test_several_adapters_for_several_networks(pipe: Pipeline, tmp_path: Path) -> None:
    alone = {}
    for name, component in (("one", "unet"), ("two", "prior_prior"), ("three", "prior_text_encoder")):
        file = write(pipe, tmp_path / f"{name}.safetensors", component)
        pipe.load_lora(file, 0.5)
        alone[name] = draw(pipe)
    assert pipe.loras == {"one": 0.5, "two": 0.5, "three": 0.5}
    assert len({image.tobytes() for image in alone.values()}) == 3
    pipe.unload_lora("three")
    assert np.array_equal(draw(pipe), alone["two"])
    network = adaptable(pipe.model)["unet"]
    again = write_lora(tmp_path / "again" / "x.safetensors", {"unet": (network, adapter_of(network, "one"))})
    first = load_file(tmp_path / "one.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in load_file(again).items())


def test_names_without_a_component_find_their_network(pipe: Pipeline, tmp_path: Path) -> None:
    file = write(pipe, tmp_path / "a.safetensors", "unet")
    pipe.load_lora(file)
    named = draw(pipe)
    pipe.unload_lora()
    bare = {name.removeprefix("unet."): tensor for name, tensor in load_file(file).items()}
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(bare, folder / "pytorch_lora_weights.safetensors")
    assert pipe.load_lora(folder) == "folder"
    assert np.array_equal(draw(pipe), named)


def test_a_decoder_that_reads_texts_keeps_its_encoders_apart(text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    pipe = text_image.ours()
    assert list(adaptable(pipe.model)) == ["unet", "text_encoder", "prior_prior", "prior_text_encoder"]
    seen = []
    for component in adaptable(pipe.model):
        pipe.load_lora(write(pipe, tmp_path / f"{component}.safetensors", component))
        seen.append(draw(pipe).tobytes())
        pipe.unload_lora()
    assert len(set(seen)) == 4


def test_an_image_made_with_an_adapter_is_repeated_with_it(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(pipe, Path("style.safetensors"))
    flags = ["--steps", "2", "--prior-steps", "2", "--seed", "3", "--device", "cpu", "-q"]

    def command(*arguments: str) -> None:
        with pytest.raises(SystemExit) as ended:
            run(["generate", *arguments, "-q", "--device", "cpu"])
        assert ended.value.code == 0

    command("a red apple", *flags, "--lora", "style.safetensors:0.5", "-o", "a.png")
    command("--from", "a.png", "-o", "b.png")
    command("a red apple", *flags, "-o", "c.png")
    assert read_metadata("a.png").settings["lora"] == {"style.safetensors": 0.5}
    first, second, plain = (np.asarray(Image.open(name)) for name in ("a.png", "b.png", "c.png"))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, plain)
    pipe.load_lora("style.safetensors", 0.5)
    assert np.array_equal(draw(pipe), first)


def test_errors_leave_the_model_as_it_was(pipe: Pipeline, tmp_path: Path) -> None:
    before = draw(pipe)
    good = write(pipe, tmp_path / "good.safetensors", "unet")
    tensors = load_file(good)
    other = {name.replace("down_blocks", "far_blocks"): tensor for name, tensor in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")
    small = {name: tensor[..., :1].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(small, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"far_blocks.*which no network of this model has"):
        pipe.load_lora(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another size"):
        pipe.load_lora(tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"no file .*missing\.safetensors"):
        pipe.load_lora(tmp_path / "missing.safetensors")
    with pytest.raises(RequestError, match="No adapter 'x'"):
        pipe.unload_lora("x")
    assert np.array_equal(draw(pipe), before)
    pipe.load_lora(good)
    with pytest.raises(RequestError, match="'good' is loaded already"):
        pipe.load_lora(good)


def test_scales_on_the_command_line() -> None:
    assert parse_lora("a/b.safetensors") == ("a/b.safetensors", 1.0)
    assert parse_lora("a:0.8") == ("a", 0.8)
    assert parse_lora("owner/name:-1") == ("owner/name", -1.0)
    assert parse_lora("C:/a.safetensors") == ("C:/a.safetensors", 1.0)
    with pytest.raises(RequestError, match="'much'"):
        parse_lora("a:much")
