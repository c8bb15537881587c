"""Every generation with its published depth and a fraction of its widths, for benchmarks of memory."""

from collections.abc import Callable
from typing import Any

from benchmarks.against_diffusers.published import (
    END,
    IMAGE,
    SQUARED_COSINE,
    T5_MARKS,
    TOKENS,
    VOCABULARY,
    XLMR_MARKS,
    Contents,
    Part,
)
from kandinsky.checkpoints.maps import networks
from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS, decoder_schedule_json
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.kl import KLConfig
from kandinsky.networks.movq import DECODER_GROUPS, MoVQConfig
from kandinsky.networks.prior import PriorConfig
from kandinsky.networks.t5 import T5Config
from kandinsky.networks.unet2 import UNet2Config
from kandinsky.networks.unet3 import UNet3Config
from kandinsky.networks.xlmr import MultilingualClipConfig


def _over(widths: tuple[int, ...], divide: int, least: int = 1) -> tuple[int, ...]:
    return tuple(max(width // divide, least) for width in widths)


def _unet2(divide: int, **condition: Any) -> Part:
    config = UNet2Config(
        channels=_over((384, 768, 1152, 1536), divide),
        head_dim=64 // divide,
        context_dim=768 // divide,
        groups=32 // divide,
        **condition,
    )
    return Part(networks.UNET, config)


def _movq(divide: int, widths: tuple[int, ...] = (128, 256, 256, 512)) -> Part:
    return Part(networks.MOVQ, MoVQConfig(channels=_over(widths, divide, DECODER_GROUPS), codebook_size=16))


def _multilingual(divide: int) -> Part:
    config = MultilingualClipConfig(
        vocab_size=250_002 // divide,
        width=1024 // divide,
        mlp_width=4096 // divide,
        projection=768 // divide,
        pooler=False,
    )
    return Part(networks.MULTILINGUAL, config)


def _prior(divide: int, dim: int, text: tuple[int, int], vision: tuple[int, int, int]) -> dict[str, Part]:
    """A prior of embeddings of `dim`, its text tower of (layers, heads), its vision tower of (width, layers,
    MLP width)."""
    layers, heads = text
    width, deep, wide = vision
    return {
        "prior_prior": Part(networks.PRIOR, PriorConfig(32, 64 // divide, 20, dim, dim, TOKENS)),
        "prior_text_encoder": Part(
            networks.CLIP_TEXT, ClipTextConfig(VOCABULARY, dim, layers, heads, 4 * dim, TOKENS, dim, "gelu", END, "eos")
        ),
        "prior_image_encoder": Part(
            networks.CLIP_VISION, ClipVisionConfig(width // divide, deep, 16, wide // divide, IMAGE, 14, dim, "gelu")
        ),
    }


def two_texts(divide: int) -> Contents:
    """2.0."""
    dims = {"text_dim": 768, "text_hidden_dim": 1024, "second_text_dim": 512}
    second = T5Config(250_112 // divide, 512 // divide, 8, 6, 64 // divide, 1024 // divide, "gelu_tanh")
    parts = {
        "unet": _unet2(divide, condition="two_texts", **{key: value // divide for key, value in dims.items()}),
        "vae": Part(networks.KL, KLConfig(channels=_over((128, 256, 512, 512), divide, 32))),
        "text_encoder": _multilingual(divide),
        "text_encoder_2": Part(networks.SECOND_TEXT, second),
    }
    scheduler = decoder_schedule_json(*LATENT_BETAS, clip=False, sampler="ddim")
    return Contents("KandinskyTwoTextsPipeline", parts, scheduler, XLMR_MARKS, second_marks=T5_MARKS)


def text_image(divide: int) -> Contents:
    """2.1, its prior in the same folder."""
    dim = 768 // divide
    dims = {"image_dim": dim, "text_dim": dim, "text_hidden_dim": 1024 // divide}
    parts = {
        "unet": _unet2(divide, condition="text_image", image_tokens=10, **dims),
        "movq": _movq(divide),
        "text_encoder": _multilingual(divide),
        **_prior(divide, dim, (12, 12), (1024, 24, 4096)),
    }
    scheduler = decoder_schedule_json(*LATENT_BETAS, clip=False, sampler="ddim")
    return Contents("KandinskyCombinedPipeline", parts, scheduler, XLMR_MARKS, prior=True)


def image(divide: int) -> Contents:
    """2.2, its prior in the same folder."""
    dim = 1280 // divide
    parts = {
        "unet": _unet2(divide, image_dim=dim),
        "movq": _movq(divide),
        **_prior(divide, dim, (32, 20), (1664, 48, 8192)),
    }
    return Contents("KandinskyV22CombinedPipeline", parts, decoder_schedule_json(*LATENT_BETAS, clip=True), prior=True)


def one_text(divide: int) -> Contents:
    """3.0."""
    width = 4096 // divide
    unet = UNet3Config(
        channels=_over((384, 768, 1536, 3072), divide),
        time_dim=1536 // divide,
        head_dim=64 // divide,
        context_dim=width,
        text_dim=width,
        groups=32 // divide,
    )
    text = T5Config(32_128 // divide, width, 32, 16, 256 // divide, 4 * width, "silu")
    parts = {
        "text_encoder": Part(networks.ONE_TEXT, text),
        "unet": Part(networks.UNET3, unet),
        "movq": _movq(divide, (256, 512, 512, 1024)),
    }
    return Contents("Kandinsky3Pipeline", parts, SQUARED_COSINE, T5_MARKS)


GENERATIONS: dict[str, Callable[[int], Contents]] = {"2.0": two_texts, "2.1": text_image, "2.2": image, "3.0": one_text}
