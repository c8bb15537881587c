"""The networks of a finished run as one checkpoint folder that any part of this library can load."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from kandinsky.checkpoints.maps.unet2 import unet2_json
from kandinsky.core.errors import ConfigError, nearest
from kandinsky.core.files import whole_folder
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.generations import write_checkpoint
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prior import Prior
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.training.config import ExportConfig

TOKENIZER = "prior_tokenizer"
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Networks:
    """What a run made, with the running means as weights, on the CPU in float32; `tokenizer` is a folder."""

    movq: MoVQ
    text: ClipText
    vision: ClipVision
    prior: Prior
    decoder: UNet2
    tokenizer: Path


def check_export(export: ExportConfig, decoder: UNet2Config) -> None:
    """Raises, before hours are spent, ConfigError for a sampler that does not exist.

    CheckpointError for a decoder that the checkpoint's format has no words for.
    """
    unet2_json(decoder, sample_size=1)
    if export.sampler is not None and export.sampler not in SAMPLERS:
        raise ConfigError(
            f"export.sampler: there is no sampler {export.sampler!r}.", nearest(export.sampler, SAMPLERS)
        )


def write_export(networks: Networks, export: ExportConfig, size: int, target: Path) -> Path:
    """Writes a checkpoint folder for pictures of `size` pixels in the place of what `target` held.

    It is written beside and then renamed, so that a folder of that name is whole. Raises OutputError.
    """
    chosen = export.model_dump(exclude={"dtype"}, exclude_none=True)
    with whole_folder(target) as aside:
        write_checkpoint(
            aside,
            {
                "unet": networks.decoder,
                "movq": networks.movq,
                "prior_prior": networks.prior,
                "prior_text_encoder": networks.text,
                "prior_image_encoder": networks.vision,
            },
            defaults=chosen,
            sample_size=size // networks.movq.config.downscale,
            dtype=getattr(torch, export.dtype),
        )
        (aside / TOKENIZER).mkdir()
        for name in TOKENIZER_FILES:
            if (networks.tokenizer / name).is_file():
                shutil.copyfile(networks.tokenizer / name, aside / TOKENIZER / name)
    return target
