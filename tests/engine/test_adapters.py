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
from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.cli.generate import parse_lora, parse_loras
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
    flags = ["--steps", "2", "--prior-steps", "2", "--seed", "3"]

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
    for scale in ("nan", "inf", "-inf"):
        with pytest.raises(RequestError, match=f"has the scale '{scale}'"):
            parse_lora(f"a:{scale}")


def test_the_same_adapter_twice_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.safetensors").touch()
    for again in ("a.safetensors:0.5", "./a.safetensors", "b=a.safetensors"):
        with pytest.raises(RequestError, match="is given twice"):
            parse_loras(["a.safetensors", again])
    assert parse_loras(["a.safetensors:0.5", "few-step"]) == {"a.safetensors": 0.5, "few-step": 1.0}


def test_files_of_one_name_are_stacked(pipe: Pipeline, tmp_path: Path) -> None:
    """As runs leave them: each is called like its method, in the folder of its run."""
    files = []
    for number, name in enumerate(("styleA", "styleB", "styleB/again", "other/again")):
        (tmp_path / name).mkdir(parents=True)
        files.append(write(pipe, tmp_path / name / "lora.safetensors", "unet", seed=number))
    assert [pipe.load_lora(file) for file in files] == ["lora", "styleB", "again", "lora-2"]
    with pytest.raises(RequestError, match="is loaded already"):
        pipe.load_lora(files[1])
    assert set(pipe.settings["lora"]) == {str(file) for file in files}  # type: ignore[arg-type]
    both = kandinsky.load(device="cpu", lora={str(files[0]): 1.0, f"mine={files[1]}": 0.5})
    assert both.loras == {"lora": 1.0, "mine": 0.5}
    again = kandinsky.load(device="cpu", lora=both.settings["lora"])  # type: ignore[arg-type]
    assert again.loras == both.loras
    assert np.array_equal(draw(again), draw(both))


def test_scales_are_finite(pipe: Pipeline, tmp_path: Path) -> None:
    file = write(pipe, tmp_path / "style.safetensors", "unet")
    with pytest.raises(RequestError, match="The scale of an adapter is nan"):
        pipe.load_lora(file, float("nan"))
    assert not pipe.loras
    pipe.load_lora(file)
    with pytest.raises(RequestError, match="The scale of an adapter is inf"):
        pipe.set_lora_scale("style", float("inf"))


def test_words_are_no_adapter_and_the_reverse(pipe: Pipeline, tmp_path: Path) -> None:
    words = write_words(tmp_path / "zwx.safetensors", {"zwx": {"prior_text_encoder": torch.zeros(1, 8)}})
    with pytest.raises(CheckpointError, match=r"holds learned words, no adapter\. Give it as words \(--words\)"):
        pipe.load_lora(words)
    with pytest.raises(CheckpointError, match=r"holds an adapter, no learned words\. Give it as lora \(--lora\)"):
        pipe.load_words(write(pipe, tmp_path / "style.safetensors"))


@pytest.mark.parametrize(
    "name", ["lora_unet_down.hada_w1_a", "lora_unet_up.lokr_w1", "lora_unet_mid.lora_down.weight", "unet.down.0.weight"]
)
def test_adapters_of_other_kinds_are_not_called_words(name: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        kandinsky.load(device="cpu").load_lora(tmp_path / "a.safetensors")
    assert "words" not in str(caught.value)
