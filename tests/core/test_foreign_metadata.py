"""The requests of other tools in images, as those tools write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kandinsky.core.errors import RequestError
from kandinsky.core.foreign_metadata import read_foreign
from kandinsky.core.metadata import EXIF_DETAILS, USER_COMMENT

PARAMETERS = """a (red:1.3) fox, sitting
in the snow
Negative prompt: blurry, low quality
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Denoising strength: 0.7, Clip skip: 2, Hires upscaler: "Latent, nearest", Version: v1.9.4"""
READ = {
    "prompt": "a (red:1.3) fox, sitting\nin the snow",
    "negative_prompt": "blurry, low quality",
    "steps": 28,
    "sampler": "DPM++ 2M Karras",
    "guidance_scale": 7.5,
    "seed": 1234567890,
    "strength": 0.7,
    "width": 512,
    "height": 768,
}


def png(path: Path, **chunks: str) -> Path:
    info = PngInfo()
    for name, text in chunks.items():
        info.add_text(name.replace("__", "-"), text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_png_of_the_web_interfaces(tmp_path: Path) -> None:
    found = read_foreign(png(tmp_path / "a.png", parameters=PARAMETERS))
    assert found is not None
    assert found.fields == READ
    assert found.model == "v1-5-pruned"
    assert found.rest["Hires upscaler"] == "Latent, nearest"
    assert found.rest["Clip skip"] == "2"
    assert found.weighted


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_photo_of_the_web_interfaces(tmp_path: Path, suffix: str, order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(EXIF_DETAILS)[USER_COMMENT] = b"UNICODE\x00" + PARAMETERS.encode(order)
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=exif.tobytes())
    found = read_foreign(path)
    assert found is not None
    assert found.fields == READ


def test_without_a_negative_prompt(tmp_path: Path) -> None:
    found = read_foreign(png(tmp_path / "a.png", parameters="a fox\nSteps: 20, Sampler: Euler a, Seed: 3"))
    assert found is not None
    assert found.fields == {"prompt": "a fox", "steps": 20, "sampler": "Euler a", "seed": 3}
    assert not found.weighted


WORKFLOW: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42,
            "steps": 25,
            "cfg": 6.5,
            "sampler_name": "euler_ancestral",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["10", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 448, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "10": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 0.5}},
    "11": {"class_type": "String", "inputs": {"value": "a red fox"}},
}


def test_a_workflow_of_comfyui(tmp_path: Path) -> None:
    found = read_foreign(png(tmp_path / "a.png", prompt=json.dumps(WORKFLOW), workflow="{}"))
    assert found is not None
    assert found.tool == "ComfyUI"
    assert found.model == "sd_xl.safetensors"
    assert found.fields == {
        "prompt": "a red fox",
        "negative_prompt": "blurry",
        "steps": 25,
        "sampler": "euler_ancestral",
        "guidance_scale": 6.5,
        "seed": 42,
        "width": 640,
        "height": 448,
    }
    assert found.rest == {"scheduler": "karras", "denoise": "1.0"}


def test_links_that_go_in_a_circle_end(tmp_path: Path) -> None:
    circle = {**WORKFLOW, "6": {"inputs": {"text": ["10", 0]}}}
    assert read_foreign(png(tmp_path / "a.png", prompt=json.dumps(circle))) is None


INVOKE = {
    "positive_prompt": "a red fox",
    "negative_prompt": "blurry",
    "seed": 7,
    "steps": 30,
    "cfg_scale": 5.5,
    "scheduler": "dpmpp_2m_k",
    "width": 512,
    "height": 640,
    "model": {"name": "stable-diffusion-1.5", "hash": "x"},
    "app_version": "6.0.0",
}


def test_an_image_of_invokeai(tmp_path: Path) -> None:
    found = read_foreign(png(tmp_path / "a.png", invokeai_metadata=json.dumps(INVOKE)))
    assert found is not None
    assert (found.tool, found.model) == ("InvokeAI", "stable-diffusion-1.5")
    assert found.fields["guidance_scale"] == 5.5
    assert (found.fields["prompt"], found.fields["seed"], found.fields["height"]) == ("a red fox", 7, 640)
    assert found.rest == {"app_version": "6.0.0"}


@pytest.mark.parametrize(
    "chunks",
    [
        {},
        {"parameters": "nothing of the kind"},
        {"prompt": "{"},
        {"prompt": "[1]"},
        {"prompt": "{}"},
        {"invokeai_metadata": "3"},
    ],
)
def test_images_that_hold_no_request(tmp_path: Path, chunks: dict[str, str]) -> None:
    assert read_foreign(png(tmp_path / "a.png", **chunks)) is None


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no image"):
        read_foreign(tmp_path / "gone.png")
