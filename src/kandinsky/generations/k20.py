"""Kandinsky 2.0: original files and our own folders of it, how they are wired, the numbers of the release.

Two states of the original code run the same weights differently; both are here, as named behaviours.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.formats import KL, MULTILINGUAL, SECOND_TEXT, UNET
from kandinsky.checkpoints.maps.options import real
from kandinsky.checkpoints.maps.original_files import KL_SCALE, TWO_TEXTS
from kandinsky.checkpoints.original import (
    OriginalFolder,
    read_kl,
    read_multilingual,
    read_second_text,
    read_text_tokenizer,
    read_unet,
)
from kandinsky.codecs.kl_codec import KLCodec
from kandinsky.conditioning.decoder_texts import DecoderTexts, MultilingualReader, SecondReader
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.conditioning.two_texts import TwoTextsConditioner
from kandinsky.core.errors import CheckpointError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import ImageNoise, Schedule
from kandinsky.generations.model import Model
from kandinsky.generations.parts import Placement, check_channels
from kandinsky.networks.kl import AutoencoderKL
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.xlmr import MultilingualClip

ORIGINAL, FOLDERS = TWO_TEXTS.kind, TWO_TEXTS.decoders
BETAS = (0.0001, 0.02)
ETA = 0.05
DEFAULTS: Mapping[str, Any] = {
    "steps": 100,
    "guidance_scale": 7.0,
    "strength": 0.3,
    "width": 512,
    "height": 512,
}
"""Of the original code, whose strength of 0.7 keeps what ours of 0.3 does."""
THRESHOLD = Constraint("percentile", ratio=0.995, max=math.inf)
"""The original code's usual bound of predictions."""
CLIPPING = Constraint("static", limit=1.0)
"""Its other one."""


def release_schedules(
    bound: Constraint | None = THRESHOLD, replace_known_region: bool = False
) -> dict[str, Schedule]:
    """The settings of the release of November 2022, with which the published examples were made.

    Both its samplers bound predictions by `bound`, then paste the known region; "ddim" makes the noise agree
    with the result, and ends on a clean picture. "plms" came later and has the settings it came with.
    """
    bounds = () if bound is None else (bound,)
    ddpm = _ddpm((*bounds, Constraint("replace_known_region")), replace_known_region)
    agreeing = tuple(replace(part, rederive_eps=True) for part in ddpm.constraints)
    ddim = replace(ddpm, sampler="ddim", eta=ETA, sections="ddim{}", constraints=agreeing)
    return {"ddim": ddim, "ddpm": ddpm, "plms": _unbound("plms", replace_known_region)}


def head_schedules(
    bound: Constraint | None = THRESHOLD, replace_known_region: bool = False
) -> dict[str, Schedule]:
    """The settings of the last state of the original code, of November 2023.

    "ddim" and "plms" bound nothing, paste nothing, and end at the first time's noise; "ddim" is without fresh
    noise, for that code lost its eta on the way to the sampler. "ddpm" always
    thresholds in the end, also what `bound` has bounded before the known region was pasted. (That code used
    no other bound than THRESHOLD outside inpainting, where once more changes nothing.)
    """
    bounds = () if bound is None else (bound,)
    told = (*bounds, Constraint("replace_known_region"), THRESHOLD)
    return {
        "ddim": _unbound("ddim", replace_known_region),
        "ddpm": _ddpm(told, replace_known_region),
        "plms": _unbound("plms", replace_known_region),
    }


def _ddpm(constraints: tuple[Constraint, ...], replace_known_region: bool) -> Schedule:
    process = Process.linear(*BETAS, dtype=torch.float64)
    return Schedule(
        process,
        constraints=constraints,
        variance="learned_range",
        spacing="respaced",
        replace_known_region=replace_known_region,
    )


def _unbound(sampler: str, replace_known_region: bool) -> Schedule:
    process = Process.linear(*BETAS, dtype=torch.float64)
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


def load_original(decoder: OriginalFolder, place: Placement) -> Model:
    """Loads a folder of original files.

    Raises CheckpointError when parts are missing or do not fit together.
    """
    tokenizers = read_text_tokenizer(decoder), read_text_tokenizer(decoder, second=True)
    return _model(
        decoder.root,
        place,
        unet=read_unet(decoder, place.variant, place.dtype),
        vae=read_kl(decoder, place.dtype),
        texts=(read_multilingual(decoder, place.dtype), read_second_text(decoder, place.dtype)),
        tokenizers=tokenizers,
        scale=KL_SCALE,
    )


def load_model(decoder: Folder, place: Placement) -> Model:
    """Loads a folder of our own in diffusers layout; see `load_original`."""
    parts = {"unet": UNET, "vae": KL, "text_encoder": MULTILINGUAL, "text_encoder_2": SECOND_TEXT}
    configs = {name: form.config(decoder, name) for name, form in parts.items()}
    scale = real(decoder.config("vae"), "scaling_factor", KL_SCALE, 0, math.inf)
    tokenizers = [
        load_tokenizer(decoder.component(name), decoder.components.get(name))
        for name in ("tokenizer", "tokenizer_2")
    ]
    found: dict[str, Any] = {
        name: place.put(form.stored(decoder, name, configs[name], place.variant))
        for name, form in parts.items()
    }
    return _model(
        decoder.root,
        place,
        unet=found["unet"],
        vae=found["vae"],
        texts=(found["text_encoder"], found["text_encoder_2"]),
        tokenizers=(tokenizers[0], tokenizers[1]),
        scale=scale,
    )


def _model(
    where: object,
    place: Placement,
    *,
    unet: UNet2,
    vae: AutoencoderKL,
    texts: tuple[MultilingualClip, T5Encoder],
    tokenizers: tuple[Tokenizer, Tokenizer],
    scale: float,
) -> Model:
    _check(where, unet, vae, texts)
    modules = {"unet": unet, "vae": vae, "text_encoder": texts[0], "text_encoder_2": texts[1]}
    for module in modules.values():
        place.move(module)
    first, second = MultilingualReader(tokenizers[0], texts[0]), SecondReader(tokenizers[1], texts[1])
    settings = BEHAVIOURS[place.behaviour or next(iter(BEHAVIOURS))]
    schedules = settings(replace_known_region=unet.config.in_channels == vae.config.latent_channels)
    return Model(
        name="Kandinsky 2.0",
        conditioner=TwoTextsConditioner(DecoderTexts(first, second)),
        network=unet,
        codec=KLCodec(vae, scale),
        schedule=schedules["ddim"],
        defaults=DEFAULTS,
        device=place.device,
        dtype=place.dtype,
        modules=modules,
        schedules=schedules,
    )


def _check(where: object, unet: UNet2, vae: AutoencoderKL, texts: tuple[MultilingualClip, T5Encoder]) -> None:
    config, latents = unet.config, vae.config.latent_channels
    if config.condition != "two_texts":
        raise CheckpointError(
            f"{where} holds a decoder that listens to {config.condition}, not to two texts.",
            "It is not of this generation.",
        )
    check_channels(where, config, latents, (latents, 2 * latents + 1))
    pairs = {
        "hidden states of the first text encoder": (texts[0].config.width, config.text_hidden_dim),
        "embedding of the first text encoder": (texts[0].config.projection, config.text_dim),
        "hidden states of the second text encoder": (texts[1].config.width, config.second_text_dim),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise CheckpointError(
                f"In {where} the {what} have size {found}, the U-Net takes {wanted}.",
                "A part is of another model; download it again.",
            )
