"""The newest generation through requests: inpainting and few steps from original files, damaged folders."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kandinsky
from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.images import to_tensor
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.tasks.start import start
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.parity.test_generate import draw_image
from tests.reference.folders import THIRD_PROMPT
from tests.requests import batches_of, our_latents
from tests.tiny_one_text import OneTextCheckpoints

PROMPT = THIRD_PROMPT
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


def hole(width: int, height: int) -> Any:
    mask = np.zeros((height, width), dtype=np.float32)
    mask[: height // 2, : width // 2] = 1.0
    return mask


@pytest.fixture(scope="module")
def first(third_first_release: Path) -> Pipeline:
    return kandinsky.load(third_first_release, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def inpainting(third_release: Path) -> Pipeline:
    return kandinsky.load(third_release, variant="inpainting", device="cpu", dtype="float32", batch_size=3)


@pytest.fixture(scope="module")
def flash(third_release: Path) -> Pipeline:
    return kandinsky.load(third_release, variant="flash", device="cpu", dtype="float32")


def test_the_region_reaches_the_network(inpainting: Pipeline) -> None:
    """By the mask, as it is, and by the latents of the image with the region grey."""
    image, mask = draw_image(64, 64), hole(64, 64)
    fields = SMALL | {"prompt": PROMPT, "image": image, "mask": mask, "seed": 1}
    request, (batch,) = batches_of(inpainting, None, fields)
    begin = start(inpainting.model, request, batch)
    assert begin.extra is not None
    assert begin.project is None
    keep, shown = begin.extra[:, :1], begin.extra[:, 1:]
    wanted = torch.from_numpy(1 - mask)[None, None, ::8, ::8]
    assert torch.equal(keep, wanted)
    pixels = to_tensor([image], 64, 64)
    grey = pixels * torch.from_numpy(1 - mask)
    assert relative(shown, inpainting.model.codec.encode(grey)) < 1e-6
    assert relative(shown, inpainting.model.codec.encode(pixels)) > 1e-3


def test_inpainting_listens_to_the_image_the_mask_and_the_text(inpainting: Pipeline) -> None:
    fields = SMALL | {"prompt": PROMPT, "image": draw_image(64, 64), "mask": hole(64, 64), "seed": 1}
    usual = our_latents(inpainting, **fields)
    for change in (
        {"image": draw_image(64, 64, 1)},
        {"mask": 1 - hole(64, 64)},
        {"prompt": "p5 p4"},
        {"negative_prompt": "p1 p2"},
        {"strength": 0.5, "steps": 4},
        {"seed": 2},
    ):
        assert relative(our_latents(inpainting, **(fields | change)), usual) > 1e-3, change


def test_an_inpainted_image_does_not_depend_on_its_batch(inpainting: Pipeline) -> None:
    images, masks = [draw_image(70, 50), draw_image(70, 50, 1)], [hole(70, 50), 1 - hole(70, 50)]
    fields: dict[str, Any] = {"steps": 2, "width": 70, "height": 50, "seed": 3}
    both = inpainting.generate([PROMPT, "p1 p2"], image=images, mask=masks, count=1, **fields).images
    for row, prompt in enumerate([PROMPT, "p1 p2"]):
        one = fields | {"seed": 3 + row, "image": images[row], "mask": masks[row]}
        (single,) = inpainting.generate(prompt, **one).images
        assert single.size == (70, 50)
        assert np.abs(np.asarray(single, int) - np.asarray(both[row], int)).max() <= 1


def test_an_inpainting_checkpoint_needs_a_mask(inpainting: Pipeline) -> None:
    with pytest.raises(RequestError, match="inpainting checkpoint, and it needs an image with a mask"):
        inpainting.generate(PROMPT, **SMALL)
    with pytest.raises(RequestError, match="needs an image with a mask"):
        inpainting.generate(PROMPT, image=draw_image(64, 64), **SMALL)


def test_few_steps(flash: Pipeline) -> None:
    usual = flash.generate(PROMPT, width=64, height=64, seed=1)
    assert usual.request["steps"] == 4
    assert usual.request["effective_guidance_scale"] == 1.0
    for steps in (1, 2, 3, 4):
        (image,) = flash.generate(PROMPT, width=64, height=64, seed=1, steps=steps).images
        assert (image.tobytes() == usual.images[0].tobytes()) is (steps == 4)
    fields = {"width": 64, "height": 64, "seed": 1, "image": draw_image(64, 64), "strength": 0.5}
    events = list(flash.stream(PROMPT, **fields))
    assert sum(isinstance(event, kandinsky.Denoising) for event in events) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 5}, r"5 steps cannot be taken from the 4 times.*Use 1 to 4"),
        ({"guidance_scale": 3.0}, r"guidance_scale 3\.0 cannot act"),
        ({"negative_prompt": "p1"}, "A negative prompt cannot act"),
        ({"eta": 0.5}, r"eta 0\.5 cannot act in sampler 'renoise'"),
    ],
)
def test_what_few_steps_refuse(flash: Pipeline, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        flash.stream(PROMPT, **fields)


@pytest.mark.parametrize(
    ("steps", "sampler"),
    mostly_slow(
        product([1, 5], ["ddpm", "ddim", "dpmpp_2m", "euler", "heun", "plms", "unipc"]), (1, "plms"), (5, "heun")
    ),
)
def test_samplers_of_original_files(first: Pipeline, sampler: str, steps: int) -> None:
    """The original code gives black images for these numbers of steps."""
    latents = our_latents(first, prompt=PROMPT, sampler=sampler, seed=1, **(SMALL | {"steps": steps}))
    assert torch.isfinite(latents).all()


def test_image_to_image_from_original_files(first: Pipeline) -> None:
    """The original code has none."""
    image = draw_image(64, 64)
    encoded = first.model.codec.encode(to_tensor([image], 64, 64))
    fields = SMALL | {"prompt": PROMPT, "image": image, "seed": 1, "steps": 20}
    far = [relative(our_latents(first, strength=s, **fields), encoded) for s in (0.05, 0.4, 1.0)]
    assert far[0] < far[1] < far[2]


def test_the_request_repeats_the_image(third_release: Path) -> None:
    pipe = kandinsky.load(third_release, device="cpu", dtype="float32")
    result = pipe.generate(PROMPT, seed=5, **SMALL)
    *_, last = pipe.run(Request.from_json(result.request))
    assert isinstance(last, kandinsky.Finished)
    assert last.result.images[0].tobytes() == result.images[0].tobytes()
    assert last.result.request == result.request


def test_half_precision(third_release: Path) -> None:
    """Only that it runs: half precision on a CPU is another rounding."""
    for dtype in ("float16", "bfloat16"):
        pipe = kandinsky.load(third_release, device="cpu", dtype=dtype)
        latents = our_latents(pipe, prompt=PROMPT, seed=1, **SMALL)
        assert latents.dtype == torch.float32
        assert torch.isfinite(latents).all()


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no text encoder": (lambda p: shutil.rmtree(p / "text_encoder"), "lacks the folder 'text_encoder'"),
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), "lacks the folder 'tokenizer'"),
    "another width": (
        lambda p: change_json(p / "unet" / "config.json", encoder_hid_dim=24),
        "states has size 20, the U-Net takes 24",
    ),
    "channels": (
        lambda p: change_json(p / "unet" / "config.json", in_channels=7),
        "takes 7 channels and gives 7, its codec makes 4",
    ),
    "shapes": (lambda p: change_json(p / "unet" / "config.json", cross_attention_dim=32), "of another shape"),
    "a U-Net of another generation": (
        lambda p: change_json(p / "unet" / "config.json", _class_name="UNet2DConditionModel"),
        "of a UNet2DConditionModel, not of a Kandinsky3UNet",
    ),
    "truncated": (
        lambda p: [f.write_bytes(f.read_bytes()[:-50]) for f in (p / "text_encoder").glob("*.safetensors")],
        "It was cut off",
    ),
    "another scheduler": (
        lambda p: change_json(p / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler"),
        "LCMScheduler",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(name: str, one_text: OneTextCheckpoints, tmp_path: Path) -> None:
    assert one_text.oracle
    damage, words = DAMAGES[name]
    shutil.copytree(one_text.root / "decoder", tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=words):
        kandinsky.load(tmp_path / "model", device="cpu")


def test_damaged_original_files(third_release: Path, tmp_path: Path) -> None:
    def copied() -> Path:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        return Path(shutil.copytree(third_release, tmp_path / "model"))

    (copied() / "weights" / "movq.pt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the file weights/movq\.pt"):
        kandinsky.load(tmp_path / "model")
    (copied() / "weights" / "flan_ul2_encoder" / "projection.pt").unlink()
    with pytest.raises(CheckpointError, match=r"projection\.pt"):
        kandinsky.load(tmp_path / "model")
    shutil.rmtree(copied() / "weights" / "flan_ul2_encoder")
    with pytest.raises(CheckpointError, match="lacks the folder"):
        kandinsky.load(tmp_path / "model")
    folder = copied()
    shutil.copy(folder / "weights" / "movq.pt", folder / "weights" / "kandinsky3.pt")
    with pytest.raises(CheckpointError, match=r"kandinsky3\.pt"):
        kandinsky.load(folder)
    with pytest.raises(CheckpointError, match="Known: 'inpainting', 'flash'"):
        kandinsky.load(third_release, variant="fp16")


def test_a_decoder_of_texts_has_no_prior(one_text: OneTextCheckpoints) -> None:
    assert one_text.oracle
    folder = one_text.root / "decoder"
    with pytest.raises(CheckpointError, match="has no prior"):
        kandinsky.load(folder, prior=one_text.root / "decoder" / "unet" / "..")
    with pytest.raises(RequestError, match="no behaviour 'release-2023'"):
        kandinsky.load(folder, behaviour="release-2023")
    assert open_folder(folder).kind == "Kandinsky3Pipeline"
