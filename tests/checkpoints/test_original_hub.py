"""Releases of original files by their hub ids: only what is needed is fetched, CLIP from its own home."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import kandinsky
from kandinsky.checkpoints.hub import cached_models
from kandinsky.checkpoints.maps.clip import logit_scale
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION
from kandinsky.checkpoints.maps.original_files import TEXT_IMAGE, TWO_TEXTS
from kandinsky.checkpoints.original import OriginalFolder, open_checkpoint
from kandinsky.checkpoints.original_hub import CLIP_REPOSITORY, HALVES, plan_original, release_of
from kandinsky.cli.main import run
from kandinsky.core.errors import CheckpointError, HubError
from tests.checkpoints.clips import transformers_clip
from tests.checkpoints.hub_server import Hub, connected, files_of
from tests.parity.oracles import relative
from tests.reference.folders import PROMPT
from tests.requests import our_latents

FIRST, SECOND = "ai-forever/Kandinsky_2.0", "ai-forever/Kandinsky_2.1"
FIELDS: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "width": 64, "height": 64, "steps": 1}
NEVER = [".gitattributes", "README.md", "text_encoder/flax_model.msgpack", "images/cat.png"]
SMALL = ["config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
ENCODER = [*SMALL, "sentencepiece.bpe.model", "pytorch_model.bin"]
# The repositories as they are published.
PUBLISHED = {
    FIRST: [
        "Kandinsky-2-0.pt",
        "Kandinsky-2-0-inpainting.pt",
        "vae.ckpt",
        *(f"text_encoder1/{name}" for name in ENCODER),
        *(f"text_encoder2/{name}" for name in ("config.json", "spiece.model", "pytorch_model.bin")),
        *NEVER,
    ],
    SECOND: [
        "decoder_fp16.ckpt",
        "inpainting_fp16.ckpt",
        "prior_fp16.ckpt",
        "movq_final.ckpt",
        "ViT-L-14_stats.th",
        *(f"text_encoder/{name}" for name in ENCODER),
        *NEVER,
    ],
}


def test_plans_of_the_first() -> None:
    files = PUBLISHED[FIRST]
    assert release_of(files) is TWO_TEXTS
    plan = plan_original(files, TWO_TEXTS, None, HALVES, FIRST)
    left = [*NEVER, "Kandinsky-2-0-inpainting.pt"]
    assert sorted(plan) == sorted(set(files) - set(left))
    assert [name.endswith((".json", ".model")) for name in plan] == [True] * 7 + [False] * 4
    other = plan_original(files, TWO_TEXTS, "inpainting", HALVES, FIRST)
    assert set(other) ^ set(plan) == {"Kandinsky-2-0.pt", "Kandinsky-2-0-inpainting.pt"}


def test_plans_of_the_second() -> None:
    files = PUBLISHED[SECOND]
    assert release_of(files) is TEXT_IMAGE
    prior = {"prior_fp16.ckpt", "ViT-L-14_stats.th"}
    plan = plan_original(files, TEXT_IMAGE, None, HALVES, SECOND)
    assert set(files) - set(plan) == {*NEVER, "inpainting_fp16.ckpt"}
    assert set(plan_original(files, TEXT_IMAGE, None, ["decoder"], SECOND)) == set(plan) - prior
    assert set(plan_original(files, TEXT_IMAGE, None, ["prior"], SECOND)) == prior
    # What a repository has of CLIP itself is taken.
    own = ["ViT-L-14.pt", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    assert set(plan_original([*files, *own], TEXT_IMAGE, None, ["prior"], SECOND)) == prior | {*own}
    whole = ["clip/config.json", "clip/model.safetensors", "clip/vocab.json", "clip/merges.txt"]
    assert set(plan_original([*files, *whole], TEXT_IMAGE, None, ["prior"], SECOND)) == prior | {*whole}
    # A repository of the inpainting files only determines the U-Net.
    inpainting = [name for name in files if name != "decoder_fp16.ckpt"]
    assert "inpainting_fp16.ckpt" in plan_original(inpainting, TEXT_IMAGE, None, HALVES, SECOND)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("movq_final.ckpt", "has no file 'movq_final.ckpt'"),
        ("prior_fp16.ckpt", "has no file 'prior_fp16.ckpt'"),
        ("text_encoder/pytorch_model.bin", "text_encoder holds no weights"),
    ],
)
def test_incomplete_repositories(missing: str, words: str) -> None:
    files = [name for name in PUBLISHED[SECOND] if name != missing]
    with pytest.raises(HubError, match=words):
        plan_original(files, TEXT_IMAGE, None, HALVES, SECOND)


def test_what_no_release_has() -> None:
    assert release_of(["model.ckpt", "vae.ckpt"]) is None
    with pytest.raises(HubError, match="no variant 'fp16'"):
        plan_original(PUBLISHED[FIRST], TWO_TEXTS, "fp16", HALVES, FIRST)
    wordless = [name for name in PUBLISHED[SECOND] if not name.endswith((".json", ".model"))]
    with pytest.raises(HubError, match="text_encoder holds no tokenizer"):
        plan_original(wordless, TEXT_IMAGE, None, HALVES, SECOND)


# CLIP's vocabulary as it is published, with the letters of one prompt.
LETTERS = ["p", *map(str, range(5))]
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
VOCABULARY = {
    "vocab.json": json.dumps({word: i for i, word in enumerate(WORDS)}).encode(),
    "merges.txt": b"#version: 0.2\n",
    "tokenizer_config.json": b'{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}',
    "special_tokens_map.json": b"{}",
}


@pytest.fixture
def local(second_release: Path, tmp_path: Path) -> Path:
    """The second release with that vocabulary."""
    place = shutil.copytree(second_release, tmp_path / "second")
    shutil.rmtree(place / "tokenizer")
    (place / "tokenizer").mkdir()
    for name, data in VOCABULARY.items():
        (place / "tokenizer" / name).write_bytes(data)
    return place


@pytest.fixture
def hub(first_release: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Both releases at small size under their real names, and CLIP under its own."""
    second = {name: data for name, data in files_of(local).items() if not name.startswith("tokenizer/")}
    del second["ViT-L-14.pt"]
    opened = open_checkpoint(local)
    assert isinstance(opened, OriginalFolder)
    towers = CLIP_TEXT.open(opened).load(), CLIP_VISION.open(opened).load()
    transformers_clip(*towers, logit_scale(opened), tmp_path / "clip")
    clip = {**files_of(tmp_path / "clip"), **VOCABULARY, "pytorch_model.bin": b"never read"}
    with connected(monkeypatch, tmp_path / "hub") as hub:
        noise = dict.fromkeys(NEVER, b"never read")
        hub.publish(FIRST, files_of(first_release) | noise)
        hub.publish(SECOND, second | noise)
        hub.publish(CLIP_REPOSITORY, clip)
        yield hub


@pytest.fixture
def load() -> Callable[..., kandinsky.Pipeline]:
    return lambda model, **options: kandinsky.load(model, device="cpu", dtype="float32", **options)


def test_the_first_by_its_id(hub: Hub, load: Callable[..., Any], first_release: Path) -> None:
    pipe = load(FIRST)
    assert not any("inpainting" in name or name in NEVER for name in hub.fetched())
    assert torch.equal(our_latents(pipe, **FIELDS), our_latents(load(first_release), **FIELDS))
    before = len(hub.fetched())
    assert load(FIRST, variant="inpainting").model.extra_channels == 5
    assert hub.fetched()[before:] == ["Kandinsky-2-0-inpainting.pt"]
    with pytest.raises(HubError, match="no variant 'fp16'"):
        load(FIRST, variant="fp16")


def test_the_second_by_its_id(hub: Hub, load: Callable[..., Any], local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load(SECOND, prior=False)
    assert "prior" not in decoder.model.modules
    assert not any(name in hub.fetched() for name in ("prior_fp16.ckpt", "ViT-L-14_stats.th", "vocab.json"))
    pipe = load(SECOND)
    fetched = hub.fetched()
    assert not any("inpainting" in name or name in NEVER for name in fetched)
    assert "pytorch_model.bin" not in fetched
    fields = FIELDS | {"prior_steps": 1}
    wanted = our_latents(load(local), **fields)
    assert relative(our_latents(pipe, **fields), wanted) < 1e-4
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert relative(our_latents(load(SECOND), **fields), wanted) < 1e-4
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        load(SECOND, variant="inpainting")
    assert len(hub.asked) == asked
    assert [model.id for model in cached_models()] == [SECOND]


def test_a_prior_by_its_id(hub: Hub, load: Callable[..., Any], second_release: Path, tmp_path: Path) -> None:
    decoder = tmp_path / "decoder"
    shutil.copytree(second_release, decoder)
    for name in ("prior_fp16.ckpt", "ViT-L-14.pt", "ViT-L-14_stats.th"):
        (decoder / name).unlink()
    with pytest.raises(CheckpointError, match="is a decoder without a prior"):
        load(decoder)
    pipe = load(decoder, prior=SECOND, variant="inpainting")
    assert "prior" in pipe.model.modules
    assert not any(name.startswith(("decoder_fp16", "inpainting", "text_encoder")) for name in hub.fetched())


def test_local_folders_ask_no_hub(hub: Hub, load: Callable[..., Any], local: Path) -> None:
    (local / "ViT-L-14.pt").unlink()
    with pytest.raises(CheckpointError, match="lacks CLIP"):
        load(local)
    assert hub.asked == []


def test_the_command_line_takes_the_ids(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--width", "64", "--height", "64", "--steps", "1", "--prior-steps", "1", "--device", "cpu"]
    for arguments in (
        ["generate", PROMPT, "--model", SECOND, *size, "-o", "fox.png"],
        ["convert", FIRST, "folder", "--to", "diffusers"],
    ):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code in (0, None)
    assert (tmp_path / "fox.png").stat().st_size > 0
    assert (tmp_path / "folder" / "text_encoder_2").is_dir()
