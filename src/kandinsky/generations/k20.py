"""Kandinsky 2.0: original files and our own folders of it, how they are wired, the numbers of the release.

Two states of the original code run the same weights differently; both are here, as named behaviours.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from kandinsky.checkpoints.components import CheckpointSpec
from kandinsky.checkpoints.maps.config_fields import real
from kandinsky.checkpoints.maps.networks import KL, MULTILINGUAL, SECOND_TEXT, UNET
from kandinsky.checkpoints.maps.original_files import KL_SCALE, TWO_TEXTS
from kandinsky.checkpoints.maps.scheduler import DDPM_BETAS
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.conditions import TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, TextsConditioner
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import ImageNoise, Schedule
from kandinsky.generations.loading import Generation, Placement, StageLoader, check_sizes, check_unet2
from kandinsky.generations.model import Model

CHECKPOINTS = CheckpointSpec(
    decoder=(UNET, KL, MULTILINGUAL, SECOND_TEXT),
    # Our own name: nobody else ever published such a folder.
    decoders=("KandinskyTwoTextsPipeline",),
    files=TWO_TEXTS,
)
ETA = 0.05
DEFAULTS: Mapping[str, object] = {"steps": 100, "guidance_scale": 7.0, "strength": 0.3, "width": 512, "height": 512}
"""Of the original code, whose strength of 0.7 keeps what ours of 0.3 does."""
THRESHOLD = Constraint("percentile", ratio=0.995, max=math.inf)
"""Dynamic thresholding, the default of the original code."""
CLIPPING = Constraint("static", limit=1.0)
"""Static clipping, its alternative."""


def release_schedules(bound: Constraint | None = THRESHOLD, replace_known_region: bool = False) -> dict[str, Schedule]:
    """The settings of the release of November 2022, with which the published examples were made.

    Both samplers apply `bound` to predictions, then replace the known region; "ddim" re-derives the noise and ends on a
    clean image. "plms" came later, with its own settings.
    """
    bounds = () if bound is None else (bound,)
    ddpm = _ddpm((*bounds, Constraint("replace_known_region")), replace_known_region)
    agreeing = tuple(replace(part, rederive_eps=True) for part in ddpm.constraints)
    ddim = replace(ddpm, sampler="ddim", eta=ETA, sections="ddim{}", constraints=agreeing)
    return {"ddim": ddim, "ddpm": ddpm, "plms": _unbound("plms", replace_known_region)}


def head_schedules(bound: Constraint | None = THRESHOLD, replace_known_region: bool = False) -> dict[str, Schedule]:
    """The settings of the last state of the original code, of November 2023.

    "ddim" and "plms" have no constraint and end at the first timestep's noise; "ddim" has no fresh noise, since that
    code loses its eta on the way to the sampler. "ddpm" always thresholds once more after the known region is replaced.
    """
    bounds = () if bound is None else (bound,)
    constraints = (*bounds, Constraint("replace_known_region"), THRESHOLD)
    return {
        "ddim": _unbound("ddim", replace_known_region),
        "ddpm": _ddpm(constraints, replace_known_region),
        "plms": _unbound("plms", replace_known_region),
    }


def _ddpm(constraints: tuple[Constraint, ...], replace_known_region: bool) -> Schedule:
    process = Process.linear(*DDPM_BETAS, dtype=torch.float64)
    return Schedule(
        process,
        constraints=constraints,
        variance="learned_range",
        spacing="respaced",
        replace_known_region=replace_known_region,
    )


def _unbound(sampler: str, replace_known_region: bool) -> Schedule:
    process = Process.linear(*DDPM_BETAS, dtype=torch.float64)
    return Schedule(
        process.ending_at_the_first(),
        sampler=sampler,
        spacing="respaced",
        sections="ddim{}",
        image_noise=ImageNoise(process, back=1, by_level=True),
        replace_known_region=replace_known_region,
    )


BEHAVIOURS: Mapping[str, Callable[..., dict[str, Schedule]]] = {
    "release-2022": release_schedules,
    "head-2023": head_schedules,
}
"""By name; the first is the usual one."""


def load(source: Source, stage: StageLoader | None, place: Placement) -> Model:
    """Loads original files or our own folder; CheckpointError when parts are missing or do not fit together."""
    unet, vae, first, second = (
        UNET.open(source, place.variant),
        KL.open(source, place.variant),
        MULTILINGUAL.open(source, place.variant),
        SECOND_TEXT.open(source, place.variant),
    )
    latents = vae.config.latent_channels
    check_unet2(source.root, unet.config, latents, ("two_texts",))
    check_sizes(
        f"In {source.root}",
        {
            "the hidden states of the first text encoder": (first.config.width, unet.config.text_hidden_dim),
            "the embedding of the first text encoder": (first.config.projection, unet.config.text_dim),
            "the hidden states of the second text encoder": (second.config.width, unet.config.second_text_dim),
        },
    )
    scale = KL_SCALE
    if not isinstance(source, OriginalFolder):
        scale = real(source.config(KL.name), "scaling_factor", KL_SCALE, 0, math.inf)
    tokenizers = MULTILINGUAL.read_tokenizer(source), SECOND_TEXT.read_tokenizer(source)
    settings = BEHAVIOURS[place.behaviour or next(iter(BEHAVIOURS))]
    schedules = settings(replace_known_region=unet.config.in_channels == latents)
    network, codec, texts = place.put(unet), place.put(vae), (place.put(first), place.put(second))
    encoders = TextEncoder(tokenizers[0], texts[0]), TextEncoder(tokenizers[1], texts[1])
    return Model(
        name="Kandinsky 2.0",
        conditioner=TextsConditioner(DecoderTexts(*encoders)),
        network=network,
        codec=AutoencoderCodec(codec, scale),
        schedule=schedules["ddim"],
        defaults=DEFAULTS,
        device=place.device,
        dtype=place.dtype,
        modules={"unet": network, "vae": codec, "text_encoder": texts[0], "text_encoder_2": texts[1]},
        schedules=schedules,
    )


GENERATION = Generation(CHECKPOINTS, load, behaviours=tuple(BEHAVIOURS), in_folders=True)
