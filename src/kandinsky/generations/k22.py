"""Kandinsky 2.2: which parts its folders hold, how they are wired, and the numbers of the release."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

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
from kandinsky.checkpoints.maps.options import whole
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
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.tokenizer import load_tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.requests import Request
from kandinsky.generations.model import Model
from kandinsky.networks.clip import ClipText, ClipTextConfig, ClipVision, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Config

M = TypeVar("M", bound=nn.Module)
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
"""Of the published model card; the size comes from the U-Net's config, the sampler from the scheduler's."""
BETAS = (0.00085, 0.012)
OWN_SETTINGS = "kandinsky.json"
"""A file of our own beside the model index: defaults of checkpoints that this library trained."""
PEER_SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")
"""Samplers whose scheduler classes the peer's pipelines of this generation can run."""


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

    def config(name: str, expect: str) -> dict[str, Any]:
        return folder.config(prefix + name, expect)

    def state(name: str, keys: KeyMap) -> dict[str, Tensor]:
        return keys.to_native(folder.weights(prefix + name, place.variant))

    def network(build: Callable[[], M], name: str, keys: KeyMap) -> M:
        what = name.replace("_", " ")
        return load_strict(build, state(name, keys), place.dtype, what).to(place.device)

    prior = prior_config(config("prior", "PriorTransformer"))
    text = clip_text_config(config("text_encoder", "CLIPTextModelWithProjection"))
    vision = clip_vision_config(config("image_encoder", "CLIPVisionModelWithProjection"))
    preprocess = ClipPreprocess.from_json(folder.config(prefix + "image_processor"))
    _check_prior(prior, text, vision, preprocess)
    return PriorStage(
        tokenizer=load_tokenizer(folder.component(prefix + "tokenizer")),
        text=network(lambda: ClipText(text), "text_encoder", CLIP_TEXT),
        vision=network(lambda: ClipVision(vision), "image_encoder", CLIP_VISION),
        preprocess=preprocess,
        network=network(lambda: Prior(prior), "prior", PRIOR),
        schedule=schedule_from_json(folder.config(prefix + "scheduler")),
    )


def _check_prior(
    prior: PriorConfig, text: ClipTextConfig, vision: ClipVisionConfig, preprocess: ClipPreprocess
) -> None:
    """The parts are read from files of their own, so that one of another model could lie among them."""
    pairs = {
        "the text encoder's hidden states": (text.width, prior.text_width),
        "the text encoder's embedding": (text.projection, prior.embedding_dim),
        "the image encoder's embedding": (vision.projection, prior.embedding_dim),
        "the image processor's picture": (preprocess.size, vision.image_size),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"In this prior {what} has size {found}, the other parts want {wanted}.",
                "A part is of another model; download the prior again.",
            )
    if text.positions < prior.tokens:
        raise CheckpointError(
            f"The text encoder reads {text.positions} tokens, the prior wants {prior.tokens}.",
            "A part is of another model; download the prior again.",
        )


def load_model(decoder: Folder, prior: Folder | None, place: Placement) -> Model:
    """Loads a decoder folder with the prior that lies in `prior`; a combined folder may be both.

    Without `prior` the decoder takes embeddings only. Raises CheckpointError when parts are missing or do
    not fit together.
    """
    unet_json = decoder.config("unet", "UNet2DConditionModel")
    config = unet2_config(unet_json)
    codec_config = movq_config(decoder.config("movq", "VQModel"))
    _check_decoder(decoder, config, codec_config)
    schedule = schedule_from_json(decoder.config("scheduler"))
    size = whole(unet_json, "sample_size", 64) * codec_config.downscale
    defaults = {**DEFAULTS, "width": size, "height": size, **_own_defaults(decoder)}
    stage = None
    if prior is not None:
        stage = load_prior(prior, place, COMBINED_PREFIX if prior.kind in COMBINED else "")
        made = stage.network.config.embedding_dim
        if made != config.image_dim:
            raise CheckpointError(
                f"The prior makes embeddings of {made} numbers, the decoder takes {config.image_dim}.",
                "Give the prior that belongs to this decoder.",
            )
    unet_state = UNET2[config.condition].to_native(decoder.weights("unet", place.variant))
    unet = load_strict(lambda: UNet2(config), unet_state, place.dtype, "unet").to(place.device)
    movq_state = MOVQ.to_native(decoder.weights("movq", place.variant))
    movq = load_strict(lambda: MoVQ(codec_config), movq_state, place.dtype, "movq").to(place.device)
    modules: dict[str, nn.Module] = {"unet": unet, "movq": movq}
    if stage is not None:
        modules |= {"prior": stage.network, "text_encoder": stage.text, "image_encoder": stage.vision}
    return Model(
        name="Kandinsky 2.2",
        conditioner=ImagePromptConditioner(stage, config.image_dim, place.device, place.dtype),
        network=unet,
        codec=MoVQCodec(movq),
        schedule=schedule,
        defaults=defaults,
        device=place.device,
        dtype=place.dtype,
        modules=modules,
        hints=config.condition == "image_hint",
    )


def _check_decoder(decoder: Folder, config: UNet2Config, codec: MoVQConfig) -> None:
    if config.condition not in ("image", "image_hint"):
        raise CheckpointError(
            f"{decoder.root} holds a decoder that listens to text as well.", "It is not of this generation."
        )
    latents = codec.codebook_dim
    known = {"image": (latents, 2 * latents + 1), "image_hint": (2 * latents,)}[config.condition]
    if config.in_channels not in known:
        raise CheckpointError(
            f"The U-Net of {decoder.root} takes {config.in_channels} channels, its codec makes {latents}.",
            f"Known for such a codec: {', '.join(map(str, known))}.",
        )
    if config.out_channels not in (latents, 2 * latents):
        raise CheckpointError(
            f"The U-Net of {decoder.root} gives {config.out_channels} channels, its codec makes {latents}.",
            f"Known for such a codec: {latents}, or {2 * latents} with variances.",
        )


def _own_defaults(folder: Folder) -> dict[str, Any]:
    """The request fields that our own file gives; CheckpointError for those that no request could have."""
    path = folder.root / OWN_SETTINGS
    if not path.is_file():
        return {}
    defaults = read_json(path).get("defaults", {})
    try:
        # strength is only understood beside an image; any will do.
        pixel = np.zeros((1, 1, 3), np.uint8) if "strength" in defaults else None
        Request("", image=pixel, **defaults)
    except (RequestError, TypeError) as error:
        raise CheckpointError(
            f"{path} has defaults that cannot be: {error}", "Correct or remove it."
        ) from error
    return dict(defaults)


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
        *BETAS, clip=False, sampler=sampler if sampler in PEER_SAMPLERS else PEER_SAMPLERS[0]
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
