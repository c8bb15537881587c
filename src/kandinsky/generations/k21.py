"""Kandinsky 2.1: its folders in both layouts, how they are wired, and the numbers of the release."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.formats import MOVQ, MULTILINGUAL, UNET
from kandinsky.checkpoints.maps.options import whole
from kandinsky.checkpoints.maps.original_files import TEXT_IMAGE
from kandinsky.checkpoints.maps.original_schedules import TEXT_IMAGE_BETAS, TEXT_IMAGE_SCHEDULES
from kandinsky.checkpoints.maps.scheduler import schedule_from_json
from kandinsky.checkpoints.maps.unet2 import unet2_config
from kandinsky.checkpoints.original import (
    OriginalFolder,
    read_clip,
    read_clip_tokenizer,
    read_movq,
    read_multilingual,
    read_prior,
    read_text_tokenizer,
    read_unet,
)
from kandinsky.codecs.movq_codec import MoVQCodec
from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.conditioning.decoder_texts import DecoderTexts, MultilingualReader
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.text_image import TextImageConditioner
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import ImageNoise, Schedule
from kandinsky.generations.few_steps import few_step_defaults, few_step_schedules
from kandinsky.generations.model import Model
from kandinsky.generations.parts import Placement, check_channels, check_fit, check_prior, own_defaults
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.networks.xlmr import MultilingualClip

ORIGINAL = TEXT_IMAGE.kind
DECODERS, PRIORS, COMBINED = TEXT_IMAGE.decoders, TEXT_IMAGE.priors, TEXT_IMAGE.combined
DEFAULTS: Mapping[str, Any] = {
    "steps": 100,
    "guidance_scale": 4.0,
    "prior_steps": 25,
    "prior_guidance_scale": 4.0,
    "strength": 0.3,
}
"""Of the diffusers pipelines; the size comes from the U-Net's config, the sampler from the scheduler's. The
decoder's steps and sampler are others unless asked for, see `few_steps`."""
ORIGINAL_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "guidance_scale": 7.0, "width": 512, "height": 512}
"""Of the original code, whose strength of 0.7 keeps what ours of 0.3 does."""
PICTURE_BETAS = (0.0001, 0.02)
"""Pictures are noised by another process than the one they are denoised by, in both codes."""


def published(schedule: Schedule, replace_known_region: bool) -> Schedule:
    """The settings of the diffusers pipelines around a scheduler's.

    Pictures are noised to time int(1000 strength) - 2; `replace_known_region` is for networks that are not
    told of the known region.
    """
    noise = ImageNoise(Process.linear(*PICTURE_BETAS), back=2)
    return replace(schedule, image_noise=noise, replace_known_region=replace_known_region)


def original_schedules(replace_known_region: bool) -> dict[str, Schedule]:
    """The settings of the original code for "ddim" and "ddpm"; "plms" has those of "ddim".

    "ddpm" constrains, and pastes the known region into predictions between two constraints; the others do
    neither. `replace_known_region` is for networks that are not told of the known region.
    """
    process = Process.linear(*TEXT_IMAGE_BETAS, dtype=torch.float64)
    pictures = Process.linear(*PICTURE_BETAS, dtype=torch.float64)
    return {
        "ddim": Schedule(
            process.ending_at_the_first(),
            sampler="ddim",
            spacing="respaced",
            sections="ddim{}",
            image_noise=ImageNoise(pictures, back=1, by_level=True),
            replace_known_region=replace_known_region,
        ),
        "ddpm": Schedule(
            process,
            constraints=(
                Constraint("static", limit=2.0),
                Constraint("replace_known_region"),
                Constraint("percentile", max=math.inf),
            ),
            variance="learned_range",
            spacing="respaced",
            image_noise=ImageNoise(pictures),
            replace_known_region=replace_known_region,
        ),
    }


def original_prior_schedule(sections: str = "{}") -> Schedule:
    """The prior's settings in the original code.

    `sections` is its string of steps, such as "25", "10,5" or "ddim25"; the default is the plain count.
    """
    implicit = sections.startswith("ddim")
    return Schedule(
        Process.squared_cosine(dtype=torch.float64),
        prediction_type="sample",
        constraints=(Constraint("static", limit=10.0, rederive_eps=True),),
        sampler="ddim" if implicit else "ddpm",
        spacing="respaced",
        sections=sections,
    )


def load_model(decoder: Folder, stage: Callable[[], PriorStage] | None, place: Placement) -> Model:
    """Loads a decoder folder in diffusers layout with the prior that `stage` loads.

    Without `stage` the decoder takes embeddings only. Raises CheckpointError when parts are missing or do
    not fit together.
    """
    unet_json = decoder.config("unet", "UNet2DConditionModel")
    text_config = MULTILINGUAL.config(decoder, "text_encoder")
    config = unet2_config(unet_json, text_dim=text_config.projection)
    codec_config = MOVQ.config(decoder, "movq")
    _check(decoder.root, config, codec_config.codebook_dim, text_config.width, text_config.projection)
    pins = config.in_channels == codec_config.codebook_dim
    schedule = published(schedule_from_json(decoder.config("scheduler")), pins)
    # The second scheduler lies beside the first, but no index lists it, so that it may not have been fetched.
    second = "ddpm_scheduler"
    there = (decoder.root / second).is_dir()
    ddpm = schedule_from_json(decoder.config(second) if there else TEXT_IMAGE_SCHEDULES[second])
    size = whole(unet_json, "sample_size", 64) * codec_config.downscale
    tokenizer = load_tokenizer(decoder.component("tokenizer"), decoder.components.get("tokenizer"))
    own = own_defaults(decoder)
    return _model(
        stage,
        place,
        unet=place.put(UNET.stored(decoder, "unet", config, place.variant)),
        movq=place.put(MOVQ.stored(decoder, "movq", codec_config, place.variant)),
        text=place.put(MULTILINGUAL.stored(decoder, "text_encoder", text_config, place.variant)),
        tokenizer=tokenizer,
        schedules={
            **few_step_schedules(schedule),
            "ddpm": published(ddpm, pins),
            schedule.sampler: schedule,
        },
        sampler=schedule.sampler,
        defaults={**DEFAULTS, **few_step_defaults(schedule, own), "width": size, "height": size, **own},
        negative_texts=True,
    )


def load_original(decoder: OriginalFolder, stage: Callable[[], PriorStage] | None, place: Placement) -> Model:
    """Loads a folder of original files with the prior that `stage` loads; see `load_model`."""
    tokenizer = read_text_tokenizer(decoder)
    unet = read_unet(decoder, place.variant, place.dtype)
    text = read_multilingual(decoder, place.dtype)
    movq = read_movq(decoder, place.dtype)
    latents = movq.config.codebook_dim
    _check(decoder.root, unet.config, latents, text.config.width, text.config.projection)
    return _model(
        stage,
        place,
        unet=unet,
        movq=movq,
        text=text,
        tokenizer=tokenizer,
        schedules=original_schedules(unet.config.in_channels == latents),
        sampler="ddim",
        defaults=ORIGINAL_DEFAULTS,
        negative_texts=False,
    )


def load_original_prior(folder: OriginalFolder, place: Placement) -> PriorStage:
    """Loads the prior of a folder of original files.

    Raises CheckpointError for missing or unfit parts, CLIP and its vocabulary among them.
    """
    tokenizer = read_clip_tokenizer(folder)
    prior, clip = read_prior(folder, place.dtype), read_clip(folder, place.dtype)
    preprocess = ClipPreprocess(clip.vision.config.image_size)
    check_prior(prior.config, clip.text.config, clip.vision.config, preprocess)
    for network in (clip.text, clip.vision, prior):
        place.move(network)
    return PriorStage(
        tokenizer=tokenizer,
        text=clip.text,
        vision=clip.vision,
        preprocess=preprocess,
        network=prior,
        schedule=original_prior_schedule(),
    )


def _check(where: object, config: UNet2Config, latents: int, width: int, projection: int) -> None:
    if config.condition != "text_image":
        raise CheckpointError(
            f"{where} holds a decoder that listens to {config.condition}, not to text and image.",
            "It is not of this generation.",
        )
    check_channels(where, config, latents, (latents, 2 * latents + 1))
    pairs = {"hidden states": (width, config.text_hidden_dim), "embedding": (projection, config.text_dim)}
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"The text encoder of {where} makes {what} of {found} numbers, its U-Net takes {wanted}.",
                "A part is of another model; download it again.",
            )


def _model(
    stage: Callable[[], PriorStage] | None,
    place: Placement,
    *,
    unet: UNet2,
    movq: MoVQ,
    text: MultilingualClip,
    tokenizer: Tokenizer,
    schedules: Mapping[str, Schedule],
    sampler: str,
    defaults: Mapping[str, Any],
    negative_texts: bool,
) -> Model:
    prior = None if stage is None else stage()
    if prior is not None:
        check_fit(prior, unet.config.image_dim)
    modules: dict[str, nn.Module] = {"unet": unet, "movq": movq, "decoder_text_encoder": text}
    for module in modules.values():
        place.move(module)
    image = ImagePromptConditioner(prior, unet.config.image_dim, place.device, place.dtype)
    texts = DecoderTexts(MultilingualReader(tokenizer, text))
    return Model(
        name="Kandinsky 2.1",
        conditioner=TextImageConditioner(image, texts, negative_texts),
        network=unet,
        codec=MoVQCodec(movq),
        schedule=schedules[sampler],
        defaults=defaults,
        device=place.device,
        dtype=place.dtype,
        modules=modules if prior is None else modules | prior.modules,
        schedules=schedules,
    )
