"""Kandinsky 2.2: which parts its folders hold, how they are wired, and the numbers of the release."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from kandinsky.checkpoints.checkpoint import Checkpoint
from kandinsky.checkpoints.components import PRIOR_PREFIX, CheckpointSpec
from kandinsky.checkpoints.convert import write_folder
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION, MOVQ, PRIOR, UNET
from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS, decoder_schedule_json, schedule_from_json
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.core.errors import CheckpointError
from kandinsky.generations.few_step_defaults import few_step_schedules
from kandinsky.generations.loading import Generation, Placement, StageLoader, check_fit, check_unet2, folder_defaults
from kandinsky.generations.model import Model

CHECKPOINTS = CheckpointSpec(
    decoder=(UNET, MOVQ),
    decoders=(
        "KandinskyV22Pipeline",
        "KandinskyV22InpaintPipeline",
        "KandinskyV22Img2ImgPipeline",
        "KandinskyV22ControlnetPipeline",
        "KandinskyV22ControlnetImg2ImgPipeline",
    ),
    prior=(PRIOR, CLIP_TEXT, CLIP_VISION),
    priors=("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline"),
    combined=(
        "KandinskyV22CombinedPipeline",
        "KandinskyV22InpaintCombinedPipeline",
        "KandinskyV22Img2ImgCombinedPipeline",
    ),
)
DIFFUSERS_SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")
"""Samplers whose scheduler classes diffusers' pipelines of this generation can run."""


def load(source: Source, stage: StageLoader | None, place: Placement) -> Model:
    """Loads a decoder folder with the prior that `stage` loads; without one it takes embeddings only. CheckpointError
    when parts are missing or do not fit together."""
    if isinstance(source, OriginalFolder):
        raise CheckpointError(f"{source.root} holds original files.", "Give a folder in diffusers layout.")
    unet, movq = UNET.open(source, place.variant), MOVQ.open(source, place.variant)
    config = unet.config
    check_unet2(source.root, config, movq.config.codebook_dim, ("image", "image_hint"))
    schedule = schedule_from_json(source.config("scheduler"))
    prior = None if stage is None else stage()
    check_fit(prior, config.image_dim)
    network, codec = place.put(unet), place.put(movq)
    modules: dict[str, nn.Module] = {"unet": network, "movq": codec}
    return Model(
        name="Kandinsky 2.2",
        conditioner=ImagePromptConditioner(prior, config.image_dim, place.device, place.dtype),
        network=network,
        codec=AutoencoderCodec(codec),
        schedule=schedule,
        defaults=folder_defaults(source, schedule, UNET.name, movq.config.downscale),
        device=place.device,
        dtype=place.dtype,
        modules=modules if prior is None else modules | prior.modules,
        hints=config.condition == "image_hint",
        schedules=few_step_schedules(schedule),
    )


GENERATION = Generation(CHECKPOINTS, load)


def write_combined(
    root: Path,
    networks: Mapping[str, nn.Module],
    *,
    defaults: Mapping[str, object],
    sample_size: int,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes networks, by component, as a folder for diffusers' combined pipeline; the model index is written last.

    The tokenizer's files belong into `prior_tokenizer`. `defaults` are request fields for our own settings; their
    "sampler" also chooses the scheduler's class where diffusers has one. `sample_size` is the side of the usual image
    in latents. Raises OutputError, and CheckpointError for a network that the layout cannot describe.
    """
    sampler = defaults.get("sampler")
    chosen = str(sampler) if sampler in DIFFUSERS_SAMPLERS else DIFFUSERS_SAMPLERS[0]
    decoder, prior = (
        {one.name: (lambda network=networks[prefix + one.name]: network) for one in specs}
        for specs, prefix in ((CHECKPOINTS.decoder, ""), (CHECKPOINTS.prior, PRIOR_PREFIX))
    )
    write_folder(
        Checkpoint(CHECKPOINTS, decoder, prior, {}),
        root,
        CHECKPOINTS.combined[0],
        dtype=dtype,
        stated={UNET.name: {"sample_size": sample_size}},
        schedules={"scheduler": decoder_schedule_json(*LATENT_BETAS, clip=False, sampler=chosen)},
        settings={"defaults": dict(defaults)},
    )
