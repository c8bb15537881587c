"""What cannot be, by both facades and for each generation: one clear error of this library each."""

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

import kandinsky
from kandinsky.compat import diffusers as compat
from kandinsky.compat.kandinsky2 import get_kandinsky2
from kandinsky.core.errors import CheckpointError, HubError, KandinskyError, RequestError, TokenizerError
from tests.compat.comparing import draw_image, embeds, folder, hole
from tests.families import mostly_slow
from tests.reference.folders import PROMPT
from tests.tiny import Checkpoints
from tests.tiny_text_image import WIDTH, TextImageCheckpoints

Load = Callable[[str, str], Any]
QUICK: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 1}
IMAGES = {
    "transparent": Image.new("RGBA", (64, 64), (200, 30, 30, 128)),
    "grey": Image.new("L", (64, 64), 90),
    "16 bits": Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
    "palette": Image.new("P", (64, 64), 3),
}


@pytest.fixture(scope="module")
def originals(first_release: Path, second_release: Path, tiny: Checkpoints) -> dict[str, dict[str, Callable[..., Any]]]:
    """The methods of the original code's models, quick ones, by version and name."""
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for version, place in (("2.0", first_release), ("2.1", second_release), ("2.2", None)):
        for task in ("img2img", "inpainting"):
            kind = folder(tiny, "inpaint" if task == "inpainting" else "text2img")
            options = {"model_path": place} if place else {"model_path": kind, "prior_path": tiny.root / "prior"}
            model = get_kandinsky2("cpu", task, model_version=version, **options)
            model.image_size = 64
            quick = {"2.0": {"num_steps": 2, "progress": False}, "2.1": {"num_steps": 2, "prior_steps": "1"}}.get(
                version, {"decoder_steps": 2, "prior_steps": 1}
            )
            quick |= {} if version == "2.0" else {"h": 64, "w": 64}
            method = getattr(model, f"generate_{task}")
            found.setdefault(version, {})[task] = lambda *a, m=method, q=quick, **k: m(PROMPT, *a, **{**q, **k})
    return found


@pytest.mark.parametrize(
    ("version", "kind"),
    mostly_slow(
        product(["2.0", "2.1", "2.2"], IMAGES),
        ("2.0", "transparent"),
        ("2.1", "grey"),
        ("2.1", "16 bits"),
        ("2.2", "palette"),
    ),
)
def test_images_of_every_mode_by_the_original_names(version: str, kind: str, originals: Any) -> None:
    (image,) = originals[version]["img2img"](IMAGES[kind], strength=0.5)
    assert (image.size, image.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2"])
def test_requests_by_the_original_names(version: str, originals: Any) -> None:
    change, repaint = originals[version]["img2img"], originals[version]["inpainting"]
    for strength in (-0.1, 1.1):
        with pytest.raises(RequestError, match=r"strength -0\.1|strength 1\.1"):
            change(draw_image(64, 64), strength=strength)
    with pytest.raises(RequestError, match="marks nothing to repaint"):
        repaint(draw_image(64, 64), np.ones((64, 64), np.float32))
    with pytest.raises(RequestError, match="is not a mask"):
        repaint(draw_image(64, 64), np.ones((64, 64, 3), np.float32))
    with pytest.raises(RequestError, match=r"There is no image none\.png"):
        change("none.png")
    with pytest.raises(RequestError, match="is not an image"):
        change(3)
    with pytest.raises(TypeError, match="numsteps"):
        change(draw_image(64, 64), numsteps=3)
    # A mask of another size is resized, as there.
    (image,) = repaint(draw_image(64, 64), 1 - hole(32, 32))
    assert image.size == (64, 64)


@pytest.mark.parametrize("strength", [-0.1, 0, 1.1, "0.3"])
def test_strengths(strength: Any, ours: Load, text_image: TextImageCheckpoints) -> None:
    later = ours("KandinskyV22Img2ImgPipeline", "text2img")
    assert text_image.decoder
    earlier = compat.KandinskyImg2ImgPipeline.from_pretrained(text_image.root / "decoder")
    with pytest.raises(RequestError, match="strength"):
        later(embeds(1)[0], draw_image(64, 64), embeds(1)[1], strength=strength, **QUICK)
    row = np.zeros((1, WIDTH), np.float32)
    with pytest.raises(RequestError, match="strength"):
        earlier("a fox", draw_image(64, 64), row, row, strength=strength, **QUICK)


@pytest.mark.parametrize(
    "field",
    [
        {"num_images_per_prompt": 0},
        {"num_images_per_prompt": 1.5},
        {"guidance_scale": "4"},
        {"guidance_scale": float("nan")},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1001},
        {"height": 0},
    ],
)
def test_numbers(field: dict[str, Any], ours: Load) -> None:
    prior, pipe = ours("KandinskyV22PriorPipeline", "prior"), ours("KandinskyV22Pipeline", "text2img")
    (name,) = field
    words = "steps" if "steps" in name else name
    with pytest.raises(RequestError, match=words):
        pipe(*embeds(1), **(QUICK | field))
    if name != "height":
        with pytest.raises(RequestError, match=words):
            prior("a fox", **({"num_inference_steps": 1} | field))


def test_numbers_of_numpy(ours: Load) -> None:
    prior = ours("KandinskyV22PriorPipeline", "prior")
    fields = {"num_images_per_prompt": np.int64(2), "guidance_scale": np.float32(3)}
    found = prior("a fox", num_inference_steps=np.int64(1), **fields).image_embeds
    plain = prior("a fox", num_inference_steps=1, num_images_per_prompt=2, guidance_scale=3.0).image_embeds
    assert found.shape == plain.shape


@pytest.mark.parametrize(
    "field", [{"batch_size": 0}, {"decoder_steps": 0}, {"prior_steps": "10,5"}, {"decoder_guidance_scale": "x"}]
)
def test_numbers_of_the_last_release(field: dict[str, Any], originals: Any) -> None:
    with pytest.raises(RequestError, match=r"is 0|0 is outside|prior_steps is '10,5'|guidance_scale is 'x'"):
        originals["2.2"]["img2img"](draw_image(64, 64), **field)


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("field", [{"num_steps": 0}, {"num_steps": 1001}, {"guidance_scale": "x"}])
def test_numbers_of_earlier_releases(version: str, field: dict[str, Any], originals: Any) -> None:
    with pytest.raises(RequestError, match=r"steps|guidance_scale"):
        originals[version]["img2img"](draw_image(64, 64), **field)


def test_parts_of_another_library(ours: Load, tiny: Checkpoints) -> None:
    """A component of diffusers looks like one of ours until it is used; it is told at once."""
    plain = ours("KandinskyV22Pipeline", "text2img").components
    theirs = tiny.decoders["text2img"]
    for name in ("scheduler", "unet", "movq"):
        pipe = compat.KandinskyV22Pipeline(**{**plain, name: getattr(theirs, name)})
        with pytest.raises(CheckpointError, match=rf"A {type(getattr(theirs, name)).__name__} was given where"):
            pipe(*embeds(1), **QUICK)
    whole = ours("KandinskyV22PriorPipeline", "prior").components
    for name in ("scheduler", "prior", "image_encoder", "text_encoder", "tokenizer", "image_processor"):
        prior = compat.KandinskyV22PriorPipeline(**{**whole, name: getattr(tiny.prior, name)})
        with pytest.raises(CheckpointError, match="was given where"):
            prior("a fox", num_inference_steps=1)
    with pytest.raises(CheckpointError, match="A NoneType was given"):
        compat.KandinskyV22Pipeline(**{**plain, "movq": None})(*embeds(1), **QUICK)
    with pytest.raises(CheckpointError, match="LCMScheduler"):
        compat.KandinskyV22Pipeline.from_pretrained(_with_scheduler(tiny))


def _with_scheduler(tiny: Checkpoints) -> Path:
    place = tiny.root / "lcm"
    shutil.copytree(folder(tiny, "text2img"), place)
    diffusers.LCMScheduler().save_pretrained(place / "scheduler")
    return place


def test_names_of_no_model(tmp_path: Path) -> None:
    for load in (
        kandinsky.load,
        compat.DiffusionPipeline.from_pretrained,
        compat.AutoPipelineForText2Image.from_pretrained,
        compat.UNet2DConditionModel.from_pretrained,
        lambda name: compat.DDPMScheduler.from_pretrained(name, subfolder="scheduler"),
        lambda name: get_kandinsky2("cpu", model_version="2.1", model_path=name),
        lambda name: get_kandinsky2("cpu", model_version="2.2", model_path=name),
    ):
        with pytest.raises(HubError, match="neither a folder on this machine nor a hub id"):
            load("no such model")
        with pytest.raises(KandinskyError, match="nowhere"):
            load(tmp_path / "nowhere")


DAMAGES: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "missing weights": (
        lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        CheckpointError,
        "holds no weights",
    ),
    "weights cut off": (
        lambda p: _cut(p / "movq" / "diffusion_pytorch_model.safetensors"),
        CheckpointError,
        "It was cut off",
    ),
    "text in place of weights": (
        lambda p: (p / "text_encoder" / "model.safetensors").write_text("version https://git-lfs"),
        CheckpointError,
        "begins with the text",
    ),
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), CheckpointError, "lacks the folder 'tokenizer'"),
    "no tokenizer files": (
        lambda p: [file.unlink() for file in (p / "tokenizer").iterdir() if "config" not in file.name],
        TokenizerError,
        "needs a tokenizer of class|holds no tokenizer",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders_of_the_earlier_generation(name: str, text_image: TextImageCheckpoints, tmp_path: Path) -> None:
    """The same error natively and by every familiar name."""
    damage, kind, words = DAMAGES[name]
    assert text_image.decoder
    assert text_image.prior
    place = shutil.copytree(text_image.root / "decoder", tmp_path / "model")
    damage(place)
    prior = text_image.root / "prior"
    for load in (
        lambda: kandinsky.load(place, prior=prior, device="cpu"),
        lambda: compat.KandinskyPipeline.from_pretrained(place),
        lambda: compat.AutoPipelineForText2Image.from_pretrained(place, prior=prior),
        lambda: get_kandinsky2("cpu", model_path=place, prior_path=prior),
    ):
        with pytest.raises(kind, match=words):
            load()


ORIGINALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing weights": (lambda p: (p / "movq_final.ckpt").unlink(), r"lacks the file movq_final\.ckpt"),
    "weights cut off": (lambda p: _cut(p / "decoder_fp16.ckpt"), "cannot be read as weights"),
    "missing prior": (lambda p: (p / "prior_fp16.ckpt").unlink(), "is a decoder without a prior"),
    "no tokenizer": (
        lambda p: [file.unlink() for file in (p / "text_encoder").glob("tokenizer*.json")],
        "holds no tokenizer",
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_damaged_original_files(name: str, second_release: Path, tmp_path: Path) -> None:
    damage, words = ORIGINALS[name]
    place = shutil.copytree(second_release, tmp_path / "model")
    damage(place)
    for load in (lambda: kandinsky.load(place, device="cpu"), lambda: get_kandinsky2("cpu", model_path=place)):
        with pytest.raises(CheckpointError, match=words):
            load()
    assert not [file for file in place.rglob("*") if file.name.endswith(".part")]


def test_missing_priors(text_image: TextImageCheckpoints, tiny: Checkpoints, tmp_path: Path) -> None:
    assert text_image.decoder
    for place in (text_image.root / "decoder", folder(tiny, "text2img")):
        for load in (kandinsky.load, compat.AutoPipelineForText2Image.from_pretrained):
            with pytest.raises(CheckpointError, match=r"is a decoder without a prior, and its README names none"):
                load(place)
    with pytest.raises(CheckpointError, match="is a decoder without a prior"):
        get_kandinsky2("cpu", model_path=text_image.root / "decoder")
