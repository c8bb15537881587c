"""A whole checkpoint of the published structure, tiny and random, written as a combined folder."""

from pathlib import Path

import torch

from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.generations.k22 import write_combined
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.training.data.tokenizer_training import train_tokenizer, write_tokenizer
from tests.parity.peers import redraw

WIDTH, TOKENS = 16, 16


def write_tiny(folder: Path) -> Path:
    """Writes the checkpoint; pictures are 64 x 64 and take a few steps of milliseconds."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red fox and a blue cat in a house"] * 4, 540)
    size = len(tokenizer.vocabulary)
    text = ClipTextConfig(size, WIDTH, 2, 2, 32, TOKENS, WIDTH, "gelu", size - 1, "eos")
    unet = UNet2Config(
        channels=(16, 16, 32, 32),
        layers=1,
        head_dim=8,
        context_dim=16,
        groups=8,
        image_dim=WIDTH,
    )
    write_combined(
        folder,
        unet=redraw(UNet2(unet)),
        movq=redraw(MoVQ(MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=32))),
        prior=redraw(Prior(PriorConfig(2, 8, 2, WIDTH, WIDTH, TOKENS))),
        text=redraw(ClipText(text)),
        vision=redraw(ClipVision(ClipVisionConfig(WIDTH, 2, 2, 32, 32, 8, WIDTH, "gelu"))),
        preprocess=ClipPreprocess(size=32),
        defaults={"steps": 4, "prior_steps": 3},
        sample_size=8,
        dtype=torch.float32,
    )
    write_tokenizer(tokenizer, folder / "prior_tokenizer", TOKENS)
    return folder
