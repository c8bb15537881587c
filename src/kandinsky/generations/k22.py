"""Kandinsky 2.2: which parts its folders hold, how they are wired, and the numbers of the release."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder, save_component, write_model_index
from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.clip import (
    CLIP_TEXT,
    CLIP_VISION,
    clip_text_config,
    clip_text_json,
    clip_vision_config,
    clip_vision_json,
)
from kandinsky.checkpoints.maps.movq import MOVQ, movq_config, movq_json
from kandinsky.checkpoints.maps.prior import PRIOR, prior_config, prior_json
from kandinsky.checkpoints.maps.scheduler import (
    PRIOR_SCHEDULE_JSON,
    decoder_schedule_json,
    schedule_from_json,
)
from kandinsky.checkpoints.maps.unet2 import UNET2, unet2_config, unet2_json
from kandinsky.checkpoints.weights import load_strict
from kandinsky.codecs.movq_codec import MoVQCodec
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.image_prompt import ImagePromptConditioner, PriorStage
from kandinsky.conditioning.tokenizer import load_tokenizer
from kandinsky.core.errors import CheckpointError
from kandinsky.generations.model import Model
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prior import Prior
from kandinsky.networks.unet2 import UNet2

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
COMBINED_PREFIX = "prior_"
DEFAULTS: Mapping[str, Any] = {
    "steps": 100,
    "guidance_scale": 4.0,
    "prior_steps": 25,
    "prior_guidance_scale": 4.0,
    "strength": 0.3,
}
"""Of the published model card; the size follows from the U-Net's `sample_size`, the sampler from the scheduler."""
BETAS = (0.00085, 0.012)
OWN_SETTINGS = "kandinsky.json"
"""A file of our own beside the model index: defaults of checkpoints that this library trained."""


@dataclass(frozen=True)
class Placement:
    """Where a model is loaded to, in which dtype it computes, and which variant of the files is read."""

    device: torch.device
    dtype: torch.dtype
    variant: str | None = None


def load_prior(folder: Folder, place: Placement, prefix: str = "") -> PriorStage:
    """Loads the prior's parts from a prior folder, or with `prefix` from a combined one.

    Raises CheckpointError for missing or unfit parts.
    """

    def state(name: str, keys: KeyMap) -> dict[str, torch.Tensor]:
        return keys.to_native(folder.weights(prefix + name, place.variant))

    def config(name: str, expect: str) -> dict[str, Any]:
        return folder.config(prefix + name, expect)

    prior = prior_config(config("prior", "PriorTransformer"))
    text = clip_text_config(config("text_encoder", "CLIPTextModelWithProjection"))
    vision = clip_vision_config(config("image_encoder", "CLIPVisionModelWithProjection"))
    return PriorStage(
        tokenizer=load_tokenizer(folder.component(prefix + "tokenizer")),
        text=load_strict(
            lambda: ClipText(text), state("text_encoder", CLIP_TEXT), place.dtype, "text encoder"
        ).to(place.device),
        vision=load_strict(
            lambda: ClipVision(vision), state("image_encoder", CLIP_VISION), place.dtype, "image encoder"
        ).to(place.device),
        preprocess=ClipPreprocess.from_json(folder.config(prefix + "image_processor")),
        network=load_strict(lambda: Prior(prior), state("prior", PRIOR), place.dtype, "prior").to(
            place.device
        ),
        schedule=schedule_from_json(folder.config(prefix + "scheduler")),
    )


def load_model(decoder: Folder, prior: Folder | None, place: Placement) -> Model:
    """Loads a decoder folder with its prior's; a combined folder is its own prior.

    Raises CheckpointError when parts are missing or do not fit together.
    """
    combined = decoder.kind in COMBINED
    stage = None
    if combined and prior is None:
        stage = load_prior(decoder, place, COMBINED_PREFIX)
    elif prior is not None:
        stage = load_prior(prior, place, COMBINED_PREFIX if prior.kind in COMBINED else "")
    unet_json = decoder.config("unet", "UNet2DConditionModel")
    config = unet2_config(unet_json)
    if config.condition == "text_image":
        raise CheckpointError(
            f"{decoder.root} holds a decoder that listens to text as well.", "It is not of this generation."
        )
    if stage is not None and stage.network.config.embedding_dim != config.image_dim:
        raise CheckpointError(
            f"The prior makes embeddings of {stage.network.config.embedding_dim} numbers, the decoder takes "
            f"{config.image_dim}.",
            "Give the prior that belongs to this decoder.",
        )
    unet_state = UNET2[config.condition].to_native(decoder.weights("unet", place.variant))
    unet = load_strict(lambda: UNet2(config), unet_state, place.dtype, "unet").to(place.device)
    codec_config = movq_config(decoder.config("movq", "VQModel"))
    movq_state = MOVQ.to_native(decoder.weights("movq", place.variant))
    movq = load_strict(lambda: MoVQ(codec_config), movq_state, place.dtype, "movq").to(place.device)
    size = int(unet_json.get("sample_size") or 64) * codec_config.downscale
    modules: dict[str, nn.Module] = {"unet": unet, "movq": movq}
    if stage is not None:
        modules |= {"prior": stage.network, "text_encoder": stage.text, "image_encoder": stage.vision}
    return Model(
        name="Kandinsky 2.2",
        conditioner=ImagePromptConditioner(stage, place.device, place.dtype),
        network=unet,
        codec=MoVQCodec(movq),
        schedule=schedule_from_json(decoder.config("scheduler")),
        defaults={**DEFAULTS, "width": size, "height": size, **_own_defaults(decoder)},
        device=place.device,
        dtype=place.dtype,
        modules=modules,
        hints=config.condition == "image_hint",
    )


def _own_defaults(folder: Folder) -> dict[str, Any]:
    path = folder.root / OWN_SETTINGS
    return dict(read_json(path).get("defaults", {})) if path.is_file() else {}


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
    """Writes all parts but the tokenizer as one folder in diffusers layout, which the peer's combined pipeline loads.

    `defaults` are request fields for `kandinsky.json`; its "sampler" also chooses the scheduler's class. The model
    index is written last, so that a folder that has one is complete. Raises OutputError.
    """

    def component(name: str, json: Mapping[str, Any], module: nn.Module, keys: KeyMap, stem: str) -> None:
        tensors = keys.to_foreign({key: value.to(dtype) for key, value in module.state_dict().items()})
        save_component(root, name, json, tensors, stem)

    diffusers, transformers = "diffusion_pytorch_model", "model"
    scheduler = decoder_schedule_json(*BETAS, clip=False, sampler="ddpm")
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
