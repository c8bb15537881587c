"""What the folders of random weights hold: one network at its published size, the rest as small as it can be.

Speed and memory do not depend on what weights say. Where one network counts, the others only have to fit to
it: what is measured then is that network, through the public path of each side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.maps import networks
from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS, decoder_schedule_json
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.movq import MoVQConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.t5 import T5Config
from kandinsky.networks.unet2 import UNet2Config
from kandinsky.networks.unet3 import UNet3Config
from kandinsky.networks.xlmr import MultilingualClipConfig

VOCABULARY, END = 8192, 8191
"""Of the embedded checkpoint's tokenizer, which the priors of these folders borrow."""
TOKENS, IMAGE = 77, 224
"""What those priors read: the tokens of a text, the side of an image."""
XLMR_MARKS, T5_MARKS = ("<s>", "<pad>", "</s>", "<unk>"), ("<pad>", "</s>", "<unk>")
LETTERS = 256
"""Tokens of letters behind the marks, in the tokenizers of the other text encoders."""
DDPM = "DDPMScheduler"
SQUARED_COSINE = {
    "_class_name": DDPM,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
    "variance_type": "fixed_small",
}
"""The scheduler of 3.0."""
TINY_TEXT = 64
"""Where a decoder reads texts, its embeddings of texts and images and its context are of one width."""
SMALL_WIDTHS: dict[str, Any] = {"channels": (32, 32, 64, 64), "layers": 1, "head_dim": 32, "context_dim": TINY_TEXT}


@dataclass(frozen=True)
class Part:
    """A component with weights: its format and the network's configuration."""

    form: Component
    config: Any


@dataclass(frozen=True)
class Contents:
    """What is in a folder: the class of the whole, its networks, its scheduler.

    `marks` are the special tokens of a tokenizer of letters, for decoders that read texts themselves, and
    `second_marks` those of the second where there are two; with `prior` there are the files of a prior that
    have no weights.
    """

    kind: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    marks: tuple[str, ...] = ()
    prior: bool = False
    second_marks: tuple[str, ...] = ()


def embedding_dim(tiny: bool) -> int:
    """Numbers of an image embedding of 2.2."""
    return TINY_TEXT if tiny else 1280


def _movq(full: bool) -> Part:
    small = MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=16)
    return Part(networks.MOVQ, MoVQConfig() if full else small)


def _image_unet(tiny: bool, full: bool) -> Part:
    widths = {} if full and not tiny else SMALL_WIDTHS
    return Part(networks.UNET, UNet2Config(image_dim=embedding_dim(tiny), **widths))


def _decoder(tiny: bool, *, unet: bool = False, movq: bool = False) -> Contents:
    """A 2.2 decoder alone, with its U-Net or its MoVQ at full size."""
    parts = {"unet": _image_unet(tiny, unet), "movq": _movq(movq and not tiny)}
    return Contents("KandinskyV22Pipeline", parts, decoder_schedule_json(*LATENT_BETAS, clip=True))


def _with_prior(tiny: bool, *, decoder: bool) -> Contents:
    """A 2.2 with its prior at full size, and with `decoder` all else too."""
    dim, deep = embedding_dim(tiny), decoder and not tiny
    heads = 2 if tiny else 20
    prior = PriorConfig(2, 16, 2, dim, dim, TOKENS) if tiny else PriorConfig(32, 64, 20, dim, dim, TOKENS)
    text = ClipTextConfig(VOCABULARY, dim, 32 if deep else 1, heads, 4 * dim, TOKENS, dim, "gelu", END, "eos")
    shallow = ClipVisionConfig(32, 1, 2, 64, IMAGE, 56, dim, "gelu")
    vision = ClipVisionConfig(1664, 48, 16, 8192, IMAGE, 14, dim, "gelu") if deep else shallow
    below = _decoder(tiny, unet=decoder, movq=decoder)
    parts = {
        **below.parts,
        "prior_prior": Part(networks.PRIOR, prior),
        "prior_text_encoder": Part(networks.CLIP_TEXT, text),
        "prior_image_encoder": Part(networks.CLIP_VISION, vision),
    }
    return Contents("KandinskyV22CombinedPipeline", parts, below.scheduler, prior=True)


def _text_image(tiny: bool) -> Contents:
    """A 2.1 decoder with its U-Net at full size; its text encoder has one layer."""
    width, projection = (64, TINY_TEXT) if tiny else (1024, 768)
    dims: dict[str, Any] = {"image_dim": projection, "text_dim": projection, "text_hidden_dim": width}
    text = MultilingualClipConfig(
        vocab_size=len(XLMR_MARKS) + LETTERS,
        width=width,
        layers=1,
        heads=4 if tiny else 16,
        mlp_width=4 * width,
        projection=projection,
        pooler=False,
    )
    widths = SMALL_WIDTHS if tiny else {}
    parts = {
        "unet": Part(networks.UNET, UNet2Config(condition="text_image", image_tokens=10, **dims, **widths)),
        "movq": _movq(False),
        "text_encoder": Part(networks.MULTILINGUAL, text),
    }
    scheduler = decoder_schedule_json(*LATENT_BETAS, clip=False, sampler="ddim")
    return Contents("KandinskyPipeline", parts, scheduler, XLMR_MARKS)


def _one_text(tiny: bool) -> Contents:
    """A 3.0 with a U-Net of half its width; its text encoder has one layer."""
    width = 64 if tiny else 2048
    unet = UNet3Config(
        channels=(64, 64, 128, 128) if tiny else (192, 384, 768, 1536),
        layers=2 if tiny else 3,
        time_dim=128 if tiny else 768,
        head_dim=32 if tiny else 64,
        context_dim=width,
        text_dim=width,
    )
    text = T5Config(len(T5_MARKS) + LETTERS, width, 1, 4, 16, 2 * width, "silu")
    parts = {"unet": Part(networks.UNET3, unet), "movq": _movq(False), "text_encoder": Part(networks.ONE_TEXT, text)}
    return Contents("Kandinsky3Pipeline", parts, SQUARED_COSINE, T5_MARKS)


MODELS: dict[str, Callable[[bool], Contents]] = {
    "unet-2.1": _text_image,
    "unet-2.2": lambda tiny: _decoder(tiny, unet=True),
    "unet-3.0-half": _one_text,
    "movq": lambda tiny: _decoder(tiny, movq=True),
    "prior-2.2": lambda tiny: _with_prior(tiny, decoder=False),
    "whole-2.2": lambda tiny: _with_prior(tiny, decoder=True),
}
"""The folders there are, by what is of full width in them; told whether everything is to be tiny."""
