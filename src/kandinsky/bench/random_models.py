"""Folders of random weights in diffusers layout, for both sides to load: one network of each at full width.

Speed and memory do not depend on what weights say, so the rest of a folder can be as small as its interfaces
allow: what is measured is then the network of full width, through the public path of each side.
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kandinsky.checkpoints import formats
from kandinsky.checkpoints.diffusers_folder import save_component, write_model_index
from kandinsky.checkpoints.files import write_json
from kandinsky.checkpoints.formats import Format
from kandinsky.checkpoints.hollow import hollow
from kandinsky.checkpoints.maps.scheduler import PRIOR_SCHEDULE_JSON, decoder_schedule_json
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.engine.embedded import embedded_folder
from kandinsky.generations.k22 import BETAS
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.movq import MoVQConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.unet2 import UNet2Config

COMPLETE = "complete.json"
"""Written last: a folder that has it need not be made again."""
VOCABULARY, END = 8192, 8191
"""Of the embedded checkpoint's tokenizer, which these folders borrow."""
TOKENS = 77


@dataclass(frozen=True)
class Sizes:
    """The widths of the networks of one folder."""

    unet: Any
    movq: MoVQConfig
    prior: PriorConfig | None = None
    text: ClipTextConfig | None = None
    vision: ClipVisionConfig | None = None
    sample_size: int = 64


@dataclass(frozen=True)
class Part:
    """A component with weights: its format and the network's configuration."""

    form: Format
    config: Any


def _unet2(quick: bool, full: bool) -> UNet2Config:
    dim = embedding_dim(quick)
    if full and not quick:
        return UNet2Config(image_dim=dim)
    return UNet2Config(channels=(32, 32, 64, 64), layers=1, head_dim=32, context_dim=64, image_dim=dim)


def _movq(quick: bool, full: bool) -> MoVQConfig:
    if full and not quick:
        return MoVQConfig()
    return MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=16)


def _towers(quick: bool, full: bool) -> dict[str, Any]:
    """A prior with its text and vision towers; the towers at full size only when `full`."""
    dim = embedding_dim(quick)
    deep = full and not quick
    heads = 20 if not quick else 2
    return {
        "prior": PriorConfig(2, 16, 2, dim, dim, TOKENS)
        if quick
        else PriorConfig(32, 64, 20, dim, dim, TOKENS),
        "text": ClipTextConfig(
            VOCABULARY, dim, 32 if deep else 1, heads, 4 * dim, TOKENS, dim, "gelu", END, "eos"
        ),
        "vision": ClipVisionConfig(1664, 48, 16, 8192, 224, 14, dim, "gelu")
        if deep
        else ClipVisionConfig(32, 1, 2, 64, 224, 56, dim, "gelu"),
    }


def embedding_dim(quick: bool) -> int:
    """Numbers of an image embedding."""
    return 32 if quick else 1280


MODELS: dict[str, Callable[[bool], Sizes]] = {
    "unet-2.2": lambda quick: Sizes(_unet2(quick, True), _movq(quick, False)),
    "movq": lambda quick: Sizes(_unet2(quick, False), _movq(quick, True)),
    "prior-2.2": lambda quick: Sizes(_unet2(quick, False), _movq(quick, False), **_towers(quick, False)),
    "whole-2.2": lambda quick: Sizes(_unet2(quick, True), _movq(quick, True), **_towers(quick, True)),
}
"""The folders there are, by what is of full width in them; told whether everything is to be tiny."""


def make_model(root: Path, name: str, quick: bool) -> dict[str, int]:
    """Writes a folder of random float32 weights unless it is there; returns the parameters of each part.

    The same name always gives the same numbers. Raises OutputError when the disk does not take them.
    """
    folder = root / name
    done = folder / COMPLETE
    if done.is_file():
        found: dict[str, int] = json.loads(done.read_text(encoding="utf-8"))
        return found
    sizes = MODELS[name](quick)
    parts = {"unet": Part(formats.UNET, sizes.unet), "movq": Part(formats.MOVQ, sizes.movq)}
    if sizes.prior is not None:
        parts |= {
            "prior_prior": Part(formats.PRIOR, sizes.prior),
            "prior_text_encoder": Part(formats.CLIP_TEXT, sizes.text),
            "prior_image_encoder": Part(formats.CLIP_VISION, sizes.vision),
        }
    counts = {component: write_part(folder, component, part) for component, part in parts.items()}
    classes = {component: (part.form.library, part.form.name) for component, part in parts.items()}
    save_component(
        folder, "scheduler", decoder_schedule_json(*BETAS, clip=True), config_name="scheduler_config.json"
    )
    classes["scheduler"] = ("diffusers", "DDPMScheduler")
    if sizes.vision is not None:
        classes |= _write_beside_prior(folder, sizes.vision)
    kind = "KandinskyV22Pipeline" if sizes.prior is None else "KandinskyV22CombinedPipeline"
    write_model_index(folder, kind, classes)
    write_json(done, counts)
    return counts


def _write_beside_prior(folder: Path, vision: ClipVisionConfig) -> dict[str, tuple[str, str]]:
    """What a prior needs that has no weights; returns the classes for the index."""
    save_component(folder, "prior_scheduler", PRIOR_SCHEDULE_JSON, config_name="scheduler_config.json")
    preprocess = ClipPreprocess(size=vision.image_size).to_json()
    save_component(folder, "prior_image_processor", preprocess, config_name="preprocessor_config.json")
    words = folder / "prior_tokenizer"
    shutil.copytree(embedded_folder() / "prior_tokenizer", words, dirs_exist_ok=True)
    settings = json.loads((words / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(words / "tokenizer_config.json", settings | {"model_max_length": TOKENS})
    return {
        "prior_scheduler": ("diffusers", str(PRIOR_SCHEDULE_JSON["_class_name"])),
        "prior_image_processor": ("transformers", "CLIPImageProcessor"),
        "prior_tokenizer": ("transformers", "CLIPTokenizer"),
    }


def write_part(folder: Path, component: str, part: Part, dtype: torch.dtype = torch.float32) -> int:
    """Writes one network of random weights and returns its number of parameters."""
    module = hollow(lambda: part.form.build(part.config))
    shapes = part.form.keys(part.config, None).to_foreign(module.state_dict())
    tensors = {name: draw(name, shape.shape).to(dtype) for name, shape in shapes.items()}
    save_component(folder, component, part.form.write(part.config), tensors, part.form.stem)
    return sum(tensor.numel() for tensor in tensors.values())


def draw(name: str, shape: torch.Size) -> Tensor:
    """A tensor that keeps signals of unit size: matrices by their inputs, what scales near 1, what shifts
    near 0. The name is the seed."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1 and not name.endswith("clip_std"):
        return noise.mul_(1 / math.sqrt(math.prod(shape[1:])))
    scales = name.endswith(("weight", "clip_std"))
    return noise.mul_(0.05).add_(1.0 if scales else 0.0)
