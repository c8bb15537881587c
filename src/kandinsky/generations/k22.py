"""Kandinsky 2.2: which parts its folders hold, how they are wired, and the numbers of the release."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder, save_component, write_model_index
from kandinsky.checkpoints.formats import MOVQ as MOVQ_FORMAT
from kandinsky.checkpoints.formats import UNET
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.clip import CLIP_TEXT, CLIP_VISION, clip_text_json, clip_vision_json
from kandinsky.checkpoints.maps.movq import MOVQ, movq_json
from kandinsky.checkpoints.maps.options import whole
from kandinsky.checkpoints.maps.original_schedules import TEXT_IMAGE_BETAS
from kandinsky.checkpoints.maps.prior import PRIOR, prior_json
from kandinsky.checkpoints.maps.scheduler import (
    PRIOR_SCHEDULE_JSON,
    decoder_schedule_json,
    schedule_from_json,
)
from kandinsky.checkpoints.maps.unet2 import UNET2, unet2_config, unet2_json
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import CheckpointError
from kandinsky.generations.few_steps import few_step_defaults, few_step_schedules
from kandinsky.generations.model import Model
from kandinsky.generations.parts import (
    OWN_SETTINGS,
    Placement,
    check_channels,
    check_fit,
    own_defaults,
)
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior
from kandinsky.networks.unet2 import UNet2, UNet2Config

DECODERS = (
    "KandinskyV22Pipeline",
    "KandinskyV22Img2ImgPipeline",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22ControlnetPipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
)
PRIORS = ("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline")
COMBINED = (
    "KandinskyV22CombinedPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "KandinskyV22InpaintCombinedPipeline",
)
DEFAULTS: Mapping[str, Any] = {
    "steps": 100,
    "guidance_scale": 4.0,
    "prior_steps": 25,
    "prior_guidance_scale": 4.0,
    "strength": 0.3,
}
"""Of the published model card; the size comes from the U-Net's config, the sampler from the scheduler's. The
decoder's steps and sampler are others unless asked for, see `few_steps`."""
PEER_SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")
"""Samplers whose scheduler classes the peer's pipelines of this generation can run."""


def load_model(decoder: Folder, stage: Callable[[], PriorStage] | None, place: Placement) -> Model:
    """Loads a decoder folder with the prior that `stage` loads.

    Without `stage` the decoder takes embeddings only. Raises CheckpointError when parts are missing or do
    not fit together.
    """
    unet_json = decoder.config("unet", "UNet2DConditionModel")
    config = unet2_config(unet_json)
    codec_config = MOVQ_FORMAT.config(decoder, "movq")
    _check_decoder(decoder, config, codec_config)
    schedule = schedule_from_json(decoder.config("scheduler"))
    size = whole(unet_json, "sample_size", 64) * codec_config.downscale
    own = own_defaults(decoder)
    defaults = {**DEFAULTS, **few_step_defaults(schedule, own), "width": size, "height": size, **own}
    prior = None if stage is None else stage()
    if prior is not None:
        check_fit(prior, config.image_dim)
    unet: UNet2 = place.put(UNET.stored(decoder, "unet", config, place.variant))
    movq: MoVQ = place.put(MOVQ_FORMAT.stored(decoder, "movq", codec_config, place.variant))
    modules: dict[str, nn.Module] = {"unet": unet, "movq": movq}
    return Model(
        name="Kandinsky 2.2",
        conditioner=ImagePromptConditioner(prior, config.image_dim, place.device, place.dtype),
        network=unet,
        codec=AutoencoderCodec(movq),
        schedule=schedule,
        defaults=defaults,
        device=place.device,
        dtype=place.dtype,
        modules=modules if prior is None else modules | prior.modules,
        hints=config.condition == "image_hint",
        schedules=few_step_schedules(schedule),
    )


def _check_decoder(decoder: Folder, config: UNet2Config, codec: MoVQConfig) -> None:
    if config.condition not in ("image", "image_hint"):
        raise CheckpointError(
            f"{decoder.root} holds a decoder that listens to text as well.", "It is not of this generation."
        )
    latents = codec.codebook_dim
    known = {"image": (latents, 2 * latents + 1), "image_hint": (2 * latents,)}[config.condition]
    check_channels(decoder.root, config, latents, known)


def write_combined(
    root: Path,
    *,
    unet: UNet2,
    movq: MoVQ,
    prior: Prior,
    text: ClipText,
    vision: ClipVision,
    preprocess: ClipPreprocess,
    defaults: Mapping[str, Any],
    sample_size: int,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes all parts but the tokenizer as a folder that the peer's combined pipeline loads.

    The tokenizer's files belong into `prior_tokenizer` beside them. `defaults` are request fields for
    `kandinsky.json`; their "sampler" also chooses the scheduler's class where the peer could run it.
    `sample_size` is the side of the usual picture in latents. The model index is written last, so that a
    folder that has one is complete. Raises OutputError, and CheckpointError for a network that the layout
    cannot describe.
    """

    def component(name: str, json: Mapping[str, Any], module: nn.Module, keys: KeyMap, stem: str) -> None:
        tensors = keys.to_foreign({key: value.to(dtype) for key, value in module.state_dict().items()})
        save_component(root, name, json, tensors, stem)

    diffusers, transformers = "diffusion_pytorch_model", "model"
    sampler = defaults.get("sampler")
    scheduler = decoder_schedule_json(
        *TEXT_IMAGE_BETAS, clip=False, sampler=sampler if sampler in PEER_SAMPLERS else PEER_SAMPLERS[0]
    )
    unet_json = unet2_json(unet.config, sample_size)
    component("unet", unet_json, unet, UNET2[unet.config.condition], diffusers)
    component("movq", movq_json(movq.config), movq, MOVQ, diffusers)
    component("prior_prior", prior_json(prior.config), prior, PRIOR, diffusers)
    component("prior_text_encoder", clip_text_json(text.config), text, CLIP_TEXT, transformers)
    component("prior_image_encoder", clip_vision_json(vision.config), vision, CLIP_VISION, transformers)
    save_component(root, "scheduler", scheduler, config_name="scheduler_config.json")
    save_component(root, "prior_scheduler", PRIOR_SCHEDULE_JSON, config_name="scheduler_config.json")
    save_component(
        root, "prior_image_processor", preprocess.to_json(), config_name="preprocessor_config.json"
    )
    save_component(root, ".", {"defaults": dict(defaults)}, config_name=OWN_SETTINGS)
    write_model_index(
        root,
        "KandinskyV22CombinedPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel"),
            "scheduler": ("diffusers", scheduler["_class_name"]),
            "movq": ("diffusers", "VQModel"),
            "prior_prior": ("diffusers", "PriorTransformer"),
            "prior_image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
            "prior_text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "prior_tokenizer": ("transformers", "CLIPTokenizer"),
            "prior_scheduler": ("diffusers", "UnCLIPScheduler"),
            "prior_image_processor": ("transformers", "CLIPImageProcessor"),
        },
    )
