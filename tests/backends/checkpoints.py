"""Random checkpoints in diffusers layout, made without an oracle."""

import json
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.diffusers_folder import write_model_index
from kandinsky.checkpoints.maps.networks import LATER_MOVQ, ONE_TEXT, UNET3
from kandinsky.generations.k22 import write_combined
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.t5 import T5Config, T5Encoder
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.networks.unet3 import UNet3, UNet3Config
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer
from tests.tiny_one_text import MARKS, SCHEDULER, letters

M = TypeVar("M", bound=nn.Module)
UNET = UNet3Config(channels=(16, 32), layers=2, time_dim=32, head_dim=8, context_dim=24, text_dim=20, groups=2)
TEXT = T5Config(300, 20, 2, 4, 5, 40, "gelu_tanh", buckets=8, max_distance=12)
CODEC = MoVQConfig(channels=(32, 64), layers=1, codebook_size=16, groups=8)
MIDDLE = UNet3Config(
    channels=(64, 128, 256, 384), layers=2, time_dim=256, head_dim=32, context_dim=256, text_dim=20, groups=16
)
"""45 million parameters."""
MIDDLE_DECODER = UNet2Config(channels=(96, 192, 288, 384), layers=2, head_dim=32, context_dim=192, image_dim=20)
"""59 million parameters."""
DECODER = UNet2Config(channels=(16, 32), layers=1, head_dim=8, context_dim=24, groups=2, image_dim=20)
PRIOR = PriorConfig(2, 8, 2, 20, 20, tokens=16)
VISION = ClipVisionConfig(24, 2, 3, 40, 20, 8, 20, "gelu")
HINTED_CODEC = MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=16, groups=8)
"""As many pixels a latent as a hint encoder reads."""
MIDDLE_CODEC = MoVQConfig(channels=(64, 128), layers=1, codebook_size=16, groups=32)


def drawn(network: M, seed: int, scale: float = 0.2) -> M:
    """The network with all its numbers drawn anew, so that none is zero; matrices by their width, others around 0 or,
    the weights of norms, 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(scale * noise + float("norm" in name and name.endswith("weight")))
    return network.eval()


def tokenizer(folder: Path) -> None:
    """A token for each letter, in the files of transformers."""
    folder.mkdir(parents=True)
    letters().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **MARKS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_checkpoint(
    root: Path,
    unet: UNet3Config = UNET,
    text: T5Config = TEXT,
    codec: MoVQConfig = CODEC,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Path:
    """A folder of networks with random weights."""
    network = drawn(UNet3(unet), 2)
    with torch.no_grad():
        # Less noise is predicted than there is: what guidance makes of rounding stays small.
        network.conv_out.weight.mul_(0.3)
    parts: list[tuple[Component, nn.Module]] = [
        (UNET3, network),
        (LATER_MOVQ, drawn(MoVQ(codec), 3)),
        (ONE_TEXT, drawn(T5Encoder(text), 1)),
    ]
    index: dict[str, tuple[str | None, str | None]] = {}
    for spec, part in parts:
        spec.save(root, part, dtype=dtype, variant=variant)
        index[spec.name] = (spec.library, spec.class_name)
    tokenizer(root / "tokenizer")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler", **SCHEDULER}))
    index |= {"tokenizer": ("transformers", "T5Tokenizer"), "scheduler": ("diffusers", "DDPMScheduler")}
    write_model_index(root, "Kandinsky3Pipeline", index)
    return root


def write_two_stages(root: Path, unet: UNet2Config = DECODER, codec: MoVQConfig = CODEC) -> Path:
    """A folder of a decoder by image embeddings and of its prior, with random weights."""
    words = train_tokenizer(["a red fox and a blue cat in a house"] * 4, 540)
    last = len(words.vocabulary) - 1
    text = ClipTextConfig(last + 1, 20, 2, 2, 40, PRIOR.tokens, 20, "quick_gelu", last, "eos")
    decoder, prior = drawn(UNet2(unet), 4), drawn(Prior(PRIOR), 5)
    with torch.no_grad():
        # As for the others.
        decoder.conv_out.weight.mul_(0.3)
        prior.clip_std.abs_().add_(0.5)
    networks: dict[str, nn.Module] = {
        "unet": decoder,
        "movq": drawn(MoVQ(codec), 3),
        "prior_prior": prior,
        "prior_text_encoder": drawn(ClipText(text), 6),
        "prior_image_encoder": drawn(ClipVision(VISION), 7),
    }
    write_combined(root, networks, defaults={"sampler": "ddim"}, sample_size=8, dtype=torch.float32)
    write_tokenizer(words, root / "prior_tokenizer", PRIOR.tokens)
    return root
