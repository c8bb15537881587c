"""The files of the original releases of 2.0 and 2.1: their names, and numbers that none of them tells."""

from dataclasses import dataclass
from typing import Any

from kandinsky.checkpoints.maps.scheduler import decoder_schedule_json


@dataclass(frozen=True)
class Layout:
    """What the parts of a release are called: files, and folders for text encoders with their tokenizers.

    `unet` and `inpainting` are the two U-Nets, of which a folder holds one or both. A part that the release
    does not have is None. The towers of CLIP are one file of another release, or a folder in the layout of
    transformers; its vocabulary lies in one of `vocabularies`. `decoders`, `priors` and `combined` are the
    classes of the same release's folders in diffusers layout: for text, for inpainting, others.
    """

    kind: str
    unet: str
    inpainting: str
    codec: str
    text_encoder: str
    second_text_encoder: str | None = None
    prior: str | None = None
    statistics: str | None = None
    clip: str | None = None
    clip_folder: str | None = None
    vocabularies: tuple[str, ...] = ()
    decoders: tuple[str, ...] = ()
    priors: tuple[str, ...] = ()
    combined: tuple[str, ...] = ()


TWO_TEXTS = Layout(
    "two texts",
    unet="Kandinsky-2-0.pt",
    inpainting="Kandinsky-2-0-inpainting.pt",
    codec="vae.ckpt",
    text_encoder="text_encoder1",
    second_text_encoder="text_encoder2",
    # Our own name: nobody else ever published such a folder.
    decoders=("KandinskyTwoTextsPipeline",),
)
TEXT_IMAGE = Layout(
    "text and image",
    unet="decoder_fp16.ckpt",
    inpainting="inpainting_fp16.ckpt",
    codec="movq_final.ckpt",
    text_encoder="text_encoder",
    prior="prior_fp16.ckpt",
    statistics="ViT-L-14_stats.th",
    clip="ViT-L-14.pt",
    clip_folder="clip",
    vocabularies=("tokenizer", "clip"),
    decoders=("KandinskyPipeline", "KandinskyInpaintPipeline", "KandinskyImg2ImgPipeline"),
    priors=("KandinskyPriorPipeline",),
    combined=(
        "KandinskyCombinedPipeline",
        "KandinskyInpaintCombinedPipeline",
        "KandinskyImg2ImgCombinedPipeline",
    ),
)
LAYOUTS = (TWO_TEXTS, TEXT_IMAGE)

KL_SCALE = 0.0512
"""From the autoencoder's latents to those of the diffusion, in 2.0."""
TEXT_IMAGE_BETAS = (0.00085, 0.012)
TEXT_IMAGE_SCHEDULES: dict[str, dict[str, Any]] = {
    "scheduler": decoder_schedule_json(*TEXT_IMAGE_BETAS, clip=False, sampler="ddim"),
    "ddpm_scheduler": {
        **decoder_schedule_json(*TEXT_IMAGE_BETAS, clip=False, sampler="ddpm"),
        "clip_sample_range": 2.0,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 2.0,
        "steps_offset": 0,
        "thresholding": True,
        "variance_type": "learned_range",
    },
}
"""The two schedulers published with the 2.1 decoder in diffusers layout."""
