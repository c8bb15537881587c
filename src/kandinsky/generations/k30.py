"""Kandinsky 3.0, 3.1 and its Flash: folders in both layouts, how they are wired, the numbers of the releases.

Two conventions run these weights: that of the diffusers pipelines for their folders, and that of the original
code, with settings of its own for each release, for original files.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.formats import MOVQ, ONE_TEXT, UNET3
from kandinsky.checkpoints.maps.original_files import FLASH
from kandinsky.checkpoints.maps.original_files import ONE_TEXT as ONE_TEXT_FILES
from kandinsky.checkpoints.maps.scheduler import schedule_from_json
from kandinsky.checkpoints.original import OriginalFolder, stored_movq
from kandinsky.checkpoints.original_one_text import (
    is_first_release,
    read_tokenizer,
    stored_encoder,
    stored_unet3,
)
from kandinsky.codecs.movq_codec import MoVQCodec
from kandinsky.conditioning.one_text import OneTextConditioner, StatesReader
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.diffusion.samplers.base import BUT_LAST
from kandinsky.diffusion.schedule import Schedule
from kandinsky.generations.model import Model, Network
from kandinsky.generations.parts import Placement, own_defaults
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3, UNet3Config

ORIGINAL = ONE_TEXT_FILES.kind
FEW_STEPS = ONE_TEXT_FILES.few_steps or ""
FOLDERS = (*ONE_TEXT_FILES.decoders, FEW_STEPS)
SIZE = {"width": 1024, "height": 1024}
DEFAULTS: Mapping[str, Any] = {"steps": 25, "guidance_scale": 3.0, "strength": 0.3, **SIZE}
"""Of the diffusers pipelines."""
ORIGINAL_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "steps": 50}
"""Of the original code."""
INPAINTING_GUIDANCE = 4.0
"""Its scale where it inpaints."""
FLASH_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "steps": 4, "guidance_scale": 0.0}
FLASH_TIMES = (979, 729, 479, 229)
GUIDANCE_OFFSET = 1.0
"""Both codes guide by (w + 1) cond - w uncond, which is `combine` with a scale of w + 1."""
PERCENTILE, INPAINTING_PERCENTILE = 0.99, 0.95
"""How much of a prediction is within the original code's bound, from noise and in inpainting."""


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
    """The settings of the original code of the second release.

    Implicit, by default with all fresh noise (eta 1; theirs is the square of ours), and none at its end,
    which is the first time's noise.
    """
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
    """The settings of the original code by sampler: "ddpm" of the first release, "ddim" of the second.

    It has no others; those take the times of the diffusers pipelines, which leave pure noise out: there a
    higher order has nothing to extrapolate.
    """
    other = Schedule(
        Process.squared_cosine(),
        constraints=(_bound(inpaints),),
        offset=1,
        replace_known_region=replace_known_region,
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
"""How the two releases of the original code ran their files; which release a file is of, it tells itself."""


def load_original(decoder: OriginalFolder, place: Placement) -> Model:
    """Loads a folder of original files, as the code of their own release ran them unless told otherwise.

    Raises CheckpointError when parts are missing or do not fit together, RequestError for a behaviour where
    there is one only.
    """
    few = decoder.chosen(place.variant) == FLASH
    if few and place.behaviour is not None:
        raise RequestError(
            f"The network of few steps has no behaviour {place.behaviour!r}.", "Leave behaviour out."
        )
    tokenizer = read_tokenizer(decoder)
    own = FIRST if not few and is_first_release(decoder, place.variant) else SECOND
    unet = place.put(stored_unet3(decoder, place.variant))
    movq, text = place.put(stored_movq(decoder)), place.put(stored_encoder(decoder))
    latents = movq.config.codebook_dim
    _check(decoder.root, unet.config, latents, text.config.width)
    inpaints = unet.config.in_channels > latents
    schedule = BEHAVIOURS[place.behaviour or own](inpaints, not inpaints)
    defaults = {**ORIGINAL_DEFAULTS, "guidance_scale": INPAINTING_GUIDANCE} if inpaints else ORIGINAL_DEFAULTS
    return wired(
        place,
        unet=unet,
        movq=movq,
        text=text,
        tokenizer=tokenizer,
        schedule=flash_schedule(not inpaints) if few else schedule,
        schedules={} if few else original_schedules(inpaints, not inpaints),
        defaults=FLASH_DEFAULTS if few else defaults,
        unguided=few,
    )


def load_model(decoder: Folder, place: Placement) -> Model:
    """Loads a folder in diffusers layout.

    Raises CheckpointError when parts are missing or do not fit together.
    """
    forms = {"unet": UNET3, "movq": MOVQ, "text_encoder": ONE_TEXT}
    configs = {name: form.config(decoder, name) for name, form in forms.items()}
    latents = configs["movq"].codebook_dim
    _check(decoder.root, configs["unet"], latents, configs["text_encoder"].width)
    few = decoder.kind == FEW_STEPS
    pins = configs["unet"].in_channels == latents
    schedule = replace(schedule_from_json(decoder.config("scheduler")), replace_known_region=pins)
    tokenizer = load_tokenizer(decoder.component("tokenizer"), decoder.components.get("tokenizer"))
    found: dict[str, Any] = {
        name: place.put(form.stored(decoder, name, configs[name], place.variant))
        for name, form in forms.items()
    }
    return wired(
        place,
        unet=found["unet"],
        movq=found["movq"],
        text=found["text_encoder"],
        tokenizer=tokenizer,
        schedule=flash_schedule(pins) if few else schedule,
        schedules={},
        defaults={**(FLASH_DEFAULTS if few else DEFAULTS), **own_defaults(decoder)},
        unguided=few,
    )


def _check(where: object, config: UNet3Config, latents: int, width: int) -> None:
    known = (latents, 2 * latents + 1)
    if config.in_channels not in known or config.out_channels != latents:
        raise CheckpointError(
            f"The U-Net of {where} takes {config.in_channels} channels and gives {config.out_channels}, its "
            f"codec makes {latents}.",
            f"Known for such a codec: {known[0]} or {known[1]} to {latents}.",
        )
    if width != config.text_dim:
        raise CheckpointError(
            f"The text encoder of {where} makes states of {width} numbers, its U-Net takes "
            f"{config.text_dim}.",
            "A part is of another model; download it again.",
        )


def wired(
    place: Placement,
    *,
    unet: UNet3,
    movq: MoVQ,
    text: T5Encoder,
    tokenizer: Tokenizer,
    schedule: Schedule,
    schedules: Mapping[str, Schedule],
    defaults: Mapping[str, Any],
    unguided: bool = False,
) -> Model:
    """The model of these parts, which are moved to where they belong."""
    modules: dict[str, nn.Module] = {"unet": unet, "movq": movq, "text_encoder": text}
    for module in modules.values():
        place.move(module)
    reader = StatesReader(tokenizer, text)
    made = assembled(place, unet, MoVQCodec(movq), reader, schedule, unguided)
    return replace(made, schedules=schedules, defaults=defaults, modules=modules)


def assembled(
    place: Placement,
    network: Network,
    codec: MoVQCodec,
    reader: StatesReader,
    schedule: Schedule,
    unguided: bool = False,
) -> Model:
    """The model of parts that are where they belong; `network` has the configuration of a `UNet3`.

    A network that has learned a null embedding is told of texts as the original code tells it, any other as
    the diffusers pipelines do.
    """
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
        tells_region="masked_picture",
        guidance_offset=GUIDANCE_OFFSET,
    )
