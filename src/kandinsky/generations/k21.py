"""Kandinsky 2.1: its folders in both layouts, how they are wired, and the numbers of the release."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from kandinsky.checkpoints.components import CheckpointSpec
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION, MOVQ, MULTILINGUAL, PRIOR, UNET
from kandinsky.checkpoints.maps.original_files import TEXT_IMAGE
from kandinsky.checkpoints.maps.scheduler import DDPM_BETAS, LATENT_BETAS, TEXT_IMAGE_SCHEDULES, schedule_from_json
from kandinsky.checkpoints.maps.unet2 import unet2_config
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.conditions import TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, TextsConditioner
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import ImageNoise, Schedule
from kandinsky.generations.few_step_defaults import PRIOR_DEFAULTS, few_step_schedules
from kandinsky.generations.loading import (
    Generation,
    Placement,
    StageLoader,
    check_fit,
    check_sizes,
    check_unet2,
    folder_defaults,
)
from kandinsky.generations.model import Model

CHECKPOINTS = CheckpointSpec(
    decoder=(UNET, MOVQ, MULTILINGUAL),
    decoders=("KandinskyPipeline", "KandinskyInpaintPipeline", "KandinskyImg2ImgPipeline"),
    prior=(PRIOR, CLIP_TEXT, CLIP_VISION),
    priors=("KandinskyPriorPipeline",),
    combined=("KandinskyCombinedPipeline", "KandinskyInpaintCombinedPipeline", "KandinskyImg2ImgCombinedPipeline"),
    files=TEXT_IMAGE,
    schedules=TEXT_IMAGE_SCHEDULES,
)
ORIGINAL_DEFAULTS: Mapping[str, object] = {**PRIOR_DEFAULTS, "guidance_scale": 7.0, "width": 512, "height": 512}
"""Of the original code, whose strength of 0.7 keeps what ours of 0.3 does."""


def published(schedule: Schedule, replace_known_region: bool) -> Schedule:
    """The settings of the diffusers pipelines around a scheduler's: images are noised by another process than the one
    they are denoised by, to time int(1000 strength) - 2. `replace_known_region` is for networks without a region
    condition."""
    noise = ImageNoise(Process.linear(*DDPM_BETAS), back=2)
    return replace(schedule, image_noise=noise, replace_known_region=replace_known_region)


def original_schedules(replace_known_region: bool) -> dict[str, Schedule]:
    """The settings of the original code for "ddim" and "ddpm"; "plms" has those of "ddim".

    "ddpm" replaces the known region between two constraints; the others do neither. `replace_known_region` is for
    networks without a region condition.
    """
    process = Process.linear(*LATENT_BETAS, dtype=torch.float64)
    images = Process.linear(*DDPM_BETAS, dtype=torch.float64)
    return {
        "ddim": Schedule(
            process.ending_at_the_first(),
            sampler="ddim",
            spacing="respaced",
            sections="ddim{}",
            image_noise=ImageNoise(images, back=1, by_level=True),
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
            image_noise=ImageNoise(images),
            replace_known_region=replace_known_region,
        ),
    }


def original_prior_schedule(sections: str = "{}") -> Schedule:
    """The prior's settings in the original code; `sections` is its string of steps, such as "25", "10,5" or
    "ddim25"."""
    implicit = sections.startswith("ddim")
    return Schedule(
        Process.squared_cosine(dtype=torch.float64),
        prediction_type="sample",
        constraints=(Constraint("static", limit=10.0, rederive_eps=True),),
        sampler="ddim" if implicit else "ddpm",
        spacing="respaced",
        sections=sections,
    )


def load(source: Source, stage: StageLoader | None, place: Placement) -> Model:
    """Loads a decoder in either layout with the prior that `stage` loads; without one it takes embeddings only.
    CheckpointError when parts are missing or do not fit together."""
    original = isinstance(source, OriginalFolder)
    text, movq = MULTILINGUAL.open(source, place.variant), MOVQ.open(source, place.variant)
    config = None
    if not isinstance(source, OriginalFolder):
        json = source.config(UNET.name, UNET.class_name)
        config = unet2_config(json, text_dim=text.config.projection)
    unet = UNET.open(source, place.variant, config=config)
    latents = movq.config.codebook_dim
    check_unet2(source.root, unet.config, latents, ("text_image",))
    check_sizes(
        f"In {source.root}",
        {
            "the text encoder's hidden states": (text.config.width, unet.config.text_hidden_dim),
            "the text encoder's embedding": (text.config.projection, unet.config.text_dim),
        },
    )
    pins = unet.config.in_channels == latents
    if isinstance(source, OriginalFolder):
        schedules, sampler, defaults = original_schedules(pins), "ddim", ORIGINAL_DEFAULTS
    else:
        schedule = published(schedule_from_json(source.config("scheduler")), pins)
        sampler = schedule.sampler
        # The second scheduler lies in the same folder, but no index lists it, so it may be missing.
        second = "ddpm_scheduler"
        there = (source.root / second).is_dir()
        ddpm = schedule_from_json(source.config(second) if there else TEXT_IMAGE_SCHEDULES[second])
        schedules = {**few_step_schedules(schedule), "ddpm": published(ddpm, pins), sampler: schedule}
        defaults = folder_defaults(source, schedule, UNET.name, movq.config.downscale)
    tokenizer = MULTILINGUAL.read_tokenizer(source)
    network, codec, encoder = place.put(unet), place.put(movq), place.put(text)
    prior = None if stage is None else stage()
    check_fit(prior, unet.config.image_dim)
    image = ImagePromptConditioner(prior, unet.config.image_dim, place.device, place.dtype)
    texts = DecoderTexts(TextEncoder(tokenizer, encoder))
    modules: dict[str, nn.Module] = {"unet": network, "movq": codec, "decoder_text_encoder": encoder}
    return Model(
        name="Kandinsky 2.1",
        conditioner=TextsConditioner(texts, image, negative_texts=not original),
        network=network,
        codec=AutoencoderCodec(codec),
        schedule=schedules[sampler],
        defaults=defaults,
        device=place.device,
        dtype=place.dtype,
        modules=modules if prior is None else modules | prior.modules,
        schedules=schedules,
    )


GENERATION = Generation(CHECKPOINTS, load, original_prior_schedule)
