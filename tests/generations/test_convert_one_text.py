"""Decoders of one text from one layout to the other and back, and in diffusers."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kandinsky
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.checkpoints.maps.networks import MOVQ, ONE_TEXT, UNET3
from kandinsky.checkpoints.original import OriginalFolder, open_checkpoint
from kandinsky.checkpoints.weights import read_pickle, read_tensor_file
from kandinsky.cli.main import run
from kandinsky.generations import convert
from tests.families import mostly_slow
from tests.parity.oracles import MOVQ_TINY, noise, redraw, relative
from tests.reference.folders import THIRD_PROMPT, write_third, write_third_first
from tests.reference.recorded import identical
from tests.requests import our_latents
from tests.tiny_one_text import SCHEDULER, TEXT, UNET, letters_tokenizer

KINDS = {"": "Kandinsky3Pipeline", "_inpainting": "Kandinsky3InpaintPipeline", "_flash": "Kandinsky3FlashPipeline"}


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_third(tmp_path_factory.mktemp("third") / "folder")


def _original(root: Path) -> OriginalFolder:
    opened = open_checkpoint(root)
    assert isinstance(opened, OriginalFolder)
    return opened


def _files(root: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of all files, those of U-Nets under flat names."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix in (".pt", ".bin"):
            nested = "kandinsky3" in path.name
            content: Any = read_pickle(path) if nested else read_tensor_file(path)
            if nested:
                content = content["unet"] | {k: v for k, v in content.items() if isinstance(v, Tensor)}
            found[path.relative_to(root).as_posix()] = content
    return found


@pytest.mark.parametrize("name", mostly_slow(KINDS, ""))
def test_original_files_there_and_back(third: Path, tmp_path: Path, name: str) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back"
    convert(_original(third), folder, "diffusers", variant=name.removeprefix("_") or None)
    opened = open_folder(folder)
    assert opened.kind == KINDS[name]
    assert set(opened.components) == {"unet", "movq", "text_encoder", "tokenizer", "scheduler"}
    convert(open_checkpoint(folder), back, "original")
    wanted = {
        path: tensors
        for path, tensors in _files(third).items()
        if Path(path).stem in (f"kandinsky3{name}", f"projection{name}", "movq", "pytorch_model")
    }
    found = _files(back)
    assert wanted.keys() == found.keys()
    assert all(identical(found[path], tensors) for path, tensors in wanted.items())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        original = third / "weights" / "flan_ul2_encoder" / file
        assert (folder / "tokenizer" / file).read_bytes() == original.read_bytes()


@pytest.mark.parametrize("name", mostly_slow(KINDS, "_inpainting", "_flash"))
def test_converted_folders_run(third: Path, tmp_path: Path, name: str) -> None:
    """A network of few steps as before, the others as folders in this layout do."""
    variant, folder = name.removeprefix("_") or None, tmp_path / "folder"
    convert(_original(third), folder, "diffusers", variant=variant)
    pipe = kandinsky.load(folder, device="cpu", dtype="float32")
    plain = kandinsky.load(third, device="cpu", dtype="float32", variant=variant)
    assert pipe.model.extra_channels == plain.model.extra_channels == (5 if name == "_inpainting" else 0)
    fields: dict[str, Any] = {"prompt": THIRD_PROMPT, "seed": 3, "width": 64, "height": 64}
    if name == "_inpainting":
        fields |= {"image": np.zeros((64, 64, 3), np.uint8), "mask": np.eye(64)}
    if name == "_flash":
        assert torch.equal(our_latents(pipe, **fields), our_latents(plain, **fields))
    else:
        assert pipe.model.schedule.sampler == "ddpm"
        assert our_latents(pipe, steps=1, **fields).isfinite().all()


def test_the_first_release_becomes_the_second(third: Path, tmp_path: Path) -> None:
    """They differ in where the projection and the text encoder lie."""
    first, folder, back = write_third_first(tmp_path / "first"), tmp_path / "folder", tmp_path / "back"
    convert(_original(first), folder, "diffusers")
    convert(open_checkpoint(folder), back, "original")
    wanted = _files(third)
    assert all(identical(tensors, wanted[path]) for path, tensors in _files(back).items())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder by diffusers, with heads and groups as original files take them to be; and its U-Net."""
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (64,) * 4, "groups": 32, "attention_head_dim": 64, "time_embedding_dim": 64}
    pipeline = Kandinsky3Pipeline(
        tokenizer=letters_tokenizer(),
        text_encoder=redraw(T5EncoderModel(T5Config(**TEXT)), 1),
        unet=redraw(Kandinsky3UNet(**{**UNET, **sizes}), 2),
        scheduler=DDPMScheduler(**SCHEDULER),
        movq=redraw(VQModel(**MOVQ_TINY), 3),
    )
    root = tmp_path_factory.mktemp("published") / "decoder"
    pipeline.to(torch.float16).save_pretrained(root, variant="fp16", max_shard_size="10KB")
    return root, pipeline.unet.float()


def test_a_published_folder_there_and_back(published: tuple[Path, Any], tmp_path: Path) -> None:
    """All but the codebook of the autoencoder, for which original files have no place."""
    source, _ = published
    original, again = tmp_path / "original", tmp_path / "again"
    convert(open_checkpoint(source), original, "original")
    assert _original(original).chosen() == ""
    assert "null_embedding" not in read_pickle(original / "weights" / "kandinsky3.pt")  # type: ignore[operator]
    convert(open_checkpoint(original), again, "diffusers")
    for component in ("unet", "movq", "text_encoder"):
        one, other = open_folder(source).weights(component), open_folder(again).weights(component)
        if component == "movq":
            assert other.pop("quantize.embedding.weight").count_nonzero() == 0
            del one["quantize.embedding.weight"]
        assert identical(other, one)
    stated = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
    wrote = json.loads((again / "scheduler" / "scheduler_config.json").read_text())
    assert {name: stated[name] for name in wrote} == wrote


@torch.no_grad()
def test_diffusers_reads_what_was_converted(published: tuple[Path, Any], tmp_path: Path) -> None:
    from diffusers import Kandinsky3Pipeline

    source, unet = published
    original, again = tmp_path / "original", tmp_path / "again"
    convert(open_checkpoint(source), original, "original")
    content = read_pickle(original / "weights" / "kandinsky3.pt")
    assert isinstance(content, dict)
    torch.save({**content, "null_embedding": torch.ones(24)}, tmp_path / "learned.pt")
    (tmp_path / "learned.pt").replace(original / "weights" / "kandinsky3.pt")
    convert(_original(original), again, "diffusers")
    assert UNET3.open(_original(original)).config.null_embedding
    pipeline = Kandinsky3Pipeline.from_pretrained(again)
    x, hidden, mask = noise(1, 4, 16, 16), noise(1, 3, 20, seed=1), torch.ones(1, 3)
    assert relative(pipeline.unet.float()(x, 3, hidden, mask).sample, unet(x, 3, hidden, mask).sample) == 0


def test_the_only_variant_is_read_sharded_or_not(published: tuple[Path, Any]) -> None:
    root, _ = published
    assert len(list((root / "text_encoder").glob("*fp16*.safetensors"))) > 1
    folder = open_folder(root)
    for component, form in (("unet", UNET3), ("movq", MOVQ), ("text_encoder", ONE_TEXT)):
        module = form.open(folder, name=component).load()
        assert {p.dtype for p in module.parameters()} == {torch.float16}


def test_loading_tells_of_the_only_variant(published: tuple[Path, Any]) -> None:
    root, _ = published
    with pytest.warns(UserWarning, match=r"decoder has weights of the variant 'fp16' alone"):
        pipe = kandinsky.load(root, device="cpu", dtype="float32")
    assert pipe.model.modules["unet"].conv_in.weight.dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kandinsky.load(root, device="cpu", variant="fp16")


def test_the_command_converts_a_flash_network(third: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(SystemExit) as ended:
        run(["convert", str(third), str(target), "--to", "diffusers", "--variant", "flash"])
    assert ended.value.code == 0
    assert open_folder(target).kind == KINDS["_flash"]
