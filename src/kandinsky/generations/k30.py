"""Kandinsky 3.0, 3.1 and its Flash: folders in both layouts, how they are wired, the numbers of the releases.

Folders run by the conventions of the diffusers pipelines, original files by those of the original code, with settings
of its own for each release.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from kandinsky.checkpoints.components import CheckpointSpec
from kandinsky.checkpoints.maps.networks import LATER_MOVQ, ONE_TEXT, UNET3
from kandinsky.checkpoints.maps.original_files import FLASH
from kandinsky.checkpoints.maps.original_files import ONE_TEXT as ONE_TEXT_FILES
from kandinsky.checkpoints.maps.scheduler import ONE_TEXT_SCHEDULES, schedule_from_json
from kandinsky.checkpoints.maps.unet3 import is_first_release
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.one_text import OneTextConditioner, StatesReader
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.diffusion.samplers.base import BUT_LAST
from kandinsky.diffusion.schedule import Schedule
from kandinsky.generations.loading import Generation, Placement, StageLoader, check_sizes, own_defaults
from kandinsky.generations.model import Model, Network
from kandinsky.networks.unet3 import UNet3Config

# The names of inpainting and of few steps are ours: diffusers has neither.
FEW_STEPS = "Kandinsky3FlashPipeline"
CHECKPOINTS = CheckpointSpec(
    decoder=(UNET3, LATER_MOVQ, ONE_TEXT),
    decoders=("Kandinsky3Pipeline", "Kandinsky3InpaintPipeline", "Kandinsky3Img2ImgPipeline"),
    few_steps=FEW_STEPS,
    files=ONE_TEXT_FILES,
    schedules=ONE_TEXT_SCHEDULES,
)
SIZE = {"width": 1024, "height": 1024}
DEFAULTS: dict[str, object] = {"steps": 25, "guidance_scale": 3.0, "strength": 0.3, **SIZE}
"""Of the diffusers pipelines."""
ORIGINAL_DEFAULTS: dict[str, object] = {**DEFAULTS, "steps": 50}
"""Of the original code."""
INPAINTING_GUIDANCE = 4.0
"""The guidance scale of the original code's inpainting."""
FLASH_DEFAULTS: dict[str, object] = {**DEFAULTS, "steps": 4, "guidance_scale": 0.0}
FLASH_TIMES = (979, 729, 479, 229)
GUIDANCE_OFFSET = 1.0
"""Both codes guide by (w + 1) cond - w uncond, which is `combine` with a scale of w + 1."""
PERCENTILE, INPAINTING_PERCENTILE = 0.99, 0.95
"""The quantiles of the original code's dynamic thresholding, for generation and for inpainting."""


def first_schedule(inpaints: bool, replace_known_region: bool = False) -> Schedule:
    """The settings of the first release of the original code: ancestral, by a process of a time per step."""
    made = partial(Process.squared_cosine, dtype=torch.float64)
    return Schedule(
        made(1000),
        process_of=made,
        constraints=(_bound(inpaints),),
        sampler="ddpm",
        replace_known_region=replace_known_region,
    )


def second_schedule(inpaints: bool, replace_known_region: bool = False) -> Schedule:
    """The settings of the original code of the second release: implicit, by default with all fresh noise (eta 1; theirs
    is the square of ours), and none at the end, which is the first timestep's noise."""
    return Schedule(
        Process.squared_cosine().ending_at_the_first(),
        constraints=(_bound(inpaints),),
        variance=BUT_LAST,
        sampler="ddim",
        spacing="counted_down",
        eta=1.0,
        replace_known_region=replace_known_region,
    )


def original_schedules(inpaints: bool, replace_known_region: bool = False) -> dict[str, Schedule]:
    """The settings of the original code by sampler: "ddpm" of the first release, "ddim" of the second. Other samplers
    get the timesteps of the diffusers pipelines, which leave out pure noise, where a higher order cannot
    extrapolate."""
    other = Schedule(
        Process.squared_cosine(), constraints=(_bound(inpaints),), offset=1, replace_known_region=replace_known_region
    )
    own = [first_schedule(inpaints, replace_known_region), second_schedule(inpaints, replace_known_region)]
    return dict.fromkeys(SAMPLERS, other) | {schedule.sampler: schedule for schedule in own}


def flash_schedule(replace_known_region: bool = False) -> Schedule:
    """The settings of the network that was distilled to four steps: nothing is bound, and noise is noised."""
    return Schedule(
        Process.squared_cosine(),
        sampler="renoise",
        only=FLASH_TIMES,
        noises_noise=True,
        replace_known_region=replace_known_region,
    )


def _bound(inpaints: bool) -> Constraint:
    ratio = INPAINTING_PERCENTILE if inpaints else PERCENTILE
    return Constraint("percentile", ratio=ratio, max=math.inf, rederive_eps=True)


FIRST, SECOND = "release-2023", "release-2024"
BEHAVIOURS: Mapping[str, Callable[[bool, bool], Schedule]] = {FIRST: first_schedule, SECOND: second_schedule}
"""The settings of both releases of the original code; a file's own release is the default."""


def load(source: Source, stage: StageLoader | None, place: Placement) -> Model:
    """Loads a folder in diffusers layout, or original files by the convention of their release; CheckpointError when
    parts are missing or do not fit together, RequestError for a behaviour where there is one only."""
    if isinstance(source, OriginalFolder):
        few = source.chosen(place.variant) == FLASH
    else:
        few = source.kind == FEW_STEPS
    if few and place.behaviour is not None:
        raise RequestError(f"The network of few steps has no behaviour {place.behaviour!r}.", "Leave behaviour out.")
    tokenizer = ONE_TEXT.read_tokenizer(source)
    unet, movq, text = (
        UNET3.open(source, place.variant),
        LATER_MOVQ.open(source, place.variant),
        ONE_TEXT.open(source, place.variant),
    )
    latents = movq.config.codebook_dim
    _check_channels(source.root, unet.config, latents)
    check_sizes(f"In {source.root}", {"the text encoder's states": (text.config.width, unet.config.text_dim)})
    inpaints = unet.config.in_channels > latents
    schedules: Mapping[str, Schedule] = {}
    defaults: Mapping[str, object]
    if isinstance(source, OriginalFolder):
        own = FIRST if not few and is_first_release(source, place.variant) else SECOND
        schedule = BEHAVIOURS[place.behaviour or own](inpaints, not inpaints)
        schedules = {} if few else original_schedules(inpaints, not inpaints)
        defaults = ORIGINAL_DEFAULTS | ({"guidance_scale": INPAINTING_GUIDANCE} if inpaints else {})
        defaults = FLASH_DEFAULTS if few else defaults
    else:
        schedule = replace(schedule_from_json(source.config("scheduler")), replace_known_region=not inpaints)
        defaults = (FLASH_DEFAULTS if few else DEFAULTS) | own_defaults(source)
    network, codec, encoder = place.put(unet), place.put(movq), place.put(text)
    model = assembled(
        place,
        network,
        AutoencoderCodec(codec),
        StatesReader(tokenizer, encoder),
        flash_schedule(not inpaints) if few else schedule,
        unguided=few,
    )
    modules: dict[str, nn.Module] = {"unet": network, "movq": codec, "text_encoder": encoder}
    return replace(model, schedules=schedules, defaults=defaults, modules=modules)


def _check_channels(where: object, config: UNet3Config, latents: int) -> None:
    known = (latents, 2 * latents + 1)
    if config.in_channels not in known or config.out_channels != latents:
        raise CheckpointError(
            f"The U-Net of {where} takes {config.in_channels} channels and gives {config.out_channels}, its "
            f"codec makes {latents}.",
            f"Known for such a codec: {known[0]} or {known[1]} to {latents}.",
        )


def assembled(
    place: Placement,
    network: Network,
    codec: AutoencoderCodec,
    reader: StatesReader,
    schedule: Schedule,
    unguided: bool = False,
) -> Model:
    """The model of parts that are in place; `network` has the configuration of a `UNet3`. One with a learned null
    embedding gets conditions as in the original code, any other as in the diffusers pipelines."""
    learned = bool(network.config.null_embedding)
    conditioner = OneTextConditioner(
        reader,
        place.device,
        place.dtype,
        masked_rows="zero_context" if learned else "zero_states",
        learned_null=learned,
        unguided=unguided,
    )
    return Model(
        name="Kandinsky 3",
        conditioner=conditioner,
        network=network,
        codec=codec,
        schedule=schedule,
        defaults={},
        device=place.device,
        dtype=place.dtype,
        tells_region="masked_image",
        guidance_offset=GUIDANCE_OFFSET,
    )


GENERATION = Generation(CHECKPOINTS, load, behaviours=tuple(BEHAVIOURS))
