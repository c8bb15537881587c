"""A checkpoint apart from its layout: networks that are read when asked for, and files beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.checkpoints import formats
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.files import read_json
from kandinsky.checkpoints.formats import Format
from kandinsky.checkpoints.maps.original_files import (
    FLASH,
    INPAINTING,
    LAYOUTS,
    ONE_TEXT,
    TEXT_IMAGE,
    TWO_TEXTS,
    Layout,
)
from kandinsky.checkpoints.original import (
    OriginalFolder,
    clip_vocabulary,
    read_clip,
    read_kl,
    read_movq,
    read_multilingual,
    read_prior,
    read_second_text,
    read_unet,
)
from kandinsky.checkpoints.original_one_text import encoder_folder, read_encoder, read_unet3, with_codebook
from kandinsky.core.errors import CheckpointError

PREFIX = "prior_"
"""What the names of a prior's components begin with in a folder that holds a decoder too."""
NOTES = "kandinsky.json"
"""A file of our own beside the model index, for what the index has no place for."""
LOGIT_SCALE = "clip_logit_scale"
PUBLISHED_LOGIT_SCALE = torch.tensor(4.6052)
"""CLIP's temperature in every published file, of which no generation makes use."""

DECODER_PARTS: Mapping[str, Mapping[str, tuple[str, Format]]] = {
    TEXT_IMAGE.kind: {
        "unet": ("unet", formats.UNET),
        "codec": ("movq", formats.MOVQ),
        "text": ("text_encoder", formats.MULTILINGUAL),
    },
    TWO_TEXTS.kind: {
        "unet": ("unet", formats.UNET),
        "codec": ("vae", formats.KL),
        "text": ("text_encoder", formats.MULTILINGUAL),
        "second_text": ("text_encoder_2", formats.SECOND_TEXT),
    },
    ONE_TEXT.kind: {
        "unet": ("unet", formats.UNET3),
        "codec": ("movq", formats.MOVQ),
        "text": ("text_encoder", formats.ONE_TEXT),
    },
}
"""A decoder's parts as components of a folder, by the kind of the release."""
PRIOR_PARTS: Mapping[str, tuple[str, Format]] = {
    "prior": ("prior", formats.PRIOR),
    "clip_text": ("text_encoder", formats.CLIP_TEXT),
    "clip_vision": ("image_encoder", formats.CLIP_VISION),
}
"""A prior's parts as components."""
TOKENIZERS: Mapping[str, str] = {"text": "tokenizer", "second_text": "tokenizer_2"}

Loader = Callable[[], nn.Module]
Reader = Callable[[OriginalFolder, str | None], nn.Module]
_READERS: Mapping[str, Mapping[str, Reader]] = {
    TEXT_IMAGE.kind: {
        "unet": read_unet,
        "codec": lambda folder, _: read_movq(folder),
        "text": lambda folder, _: read_multilingual(folder),
    },
    TWO_TEXTS.kind: {
        "unet": read_unet,
        "codec": lambda folder, _: read_kl(folder),
        "text": lambda folder, _: read_multilingual(folder),
        "second_text": lambda folder, _: read_second_text(folder),
    },
    ONE_TEXT.kind: {
        "unet": read_unet3,
        "codec": lambda folder, _: with_codebook(read_movq(folder)),
        "text": lambda folder, _: read_encoder(folder),
    },
}
"""How a decoder's parts are read from original files, by the kind of the release."""


@dataclass(frozen=True, eq=False)
class Release:
    """A decoder, a prior, or both.

    `networks` load their parts, by the names of `DECODER_PARTS` and `PRIOR_PARTS`; `tokenizers` are the
    folders of their vocabularies; `logit_scale` is CLIP's, where a prior is there. `variant` says which U-Net
    of the release it has, see `Layout.unets`.
    """

    layout: Layout
    networks: Mapping[str, Loader]
    tokenizers: Mapping[str, Path]
    logit_scale: Callable[[], Tensor]
    variant: str = ""

    @property
    def has_decoder(self) -> bool:
        """Whether it has a U-Net."""
        return "unet" in self.networks

    @property
    def has_prior(self) -> bool:
        """Whether it has a prior."""
        return "prior" in self.networks

    def joined(self, other: "Release") -> "Release":
        """Both together, a decoder and a prior of the same release; CheckpointError for anything else."""
        twice = sorted(set(self.networks) & set(other.networks))
        if self.layout != other.layout or twice:
            raise CheckpointError(
                f"These are no decoder and its prior: both have {', '.join(twice)}."
                if twice
                else "These are a decoder and a prior of different releases.",
                "Give a decoder and the prior that belongs to it.",
            )
        return Release(
            self.layout,
            {**self.networks, **other.networks},
            {**self.tokenizers, **other.tokenizers},
            other.logit_scale if other.has_prior else self.logit_scale,
            self.variant or other.variant,
        )


def read_release(source: Folder | OriginalFolder, variant: str | None = None) -> Release:
    """What a folder holds; CheckpointError for a folder whose kind has no other layout.

    `variant` chooses among weights that are there several times. Networks are read later, one by one.
    """
    if isinstance(source, OriginalFolder):
        return _from_original(source, variant)
    return _from_folder(source, variant)


def _from_original(folder: OriginalFolder, variant: str | None) -> Release:
    layout = folder.layout
    networks: dict[str, Loader] = {}
    tokenizers: dict[str, Path] = {}
    chosen = folder.chosen(variant)
    if folder.has_decoder:
        for part, read in _READERS[layout.kind].items():
            networks[part] = partial(read, folder, variant)
        tokenizers["text"] = encoder_folder(folder)
    if folder.has_decoder and layout.second_text_encoder:
        tokenizers["second_text"] = folder.folder(layout.second_text_encoder)
    if folder.has_prior:
        networks |= {
            "prior": lambda: read_prior(folder),
            "clip_text": lambda: read_clip(folder).text,
            "clip_vision": lambda: read_clip(folder).vision,
        }
        tokenizers["clip_text"] = clip_vocabulary(folder)
    return Release(layout, networks, tokenizers, lambda: read_clip(folder).logit_scale, chosen)


def _from_folder(folder: Folder, variant: str | None) -> Release:
    layout = next((known for known in LAYOUTS if folder.kind in _classes(known)), None)
    if layout is None:
        raise CheckpointError(
            f"{folder.root} holds a {folder.kind or 'model without a name'}, which has no other layout.",
            f"Known: {', '.join(name for known in LAYOUTS for name in _classes(known))}.",
        )
    networks: dict[str, Loader] = {}
    tokenizers: dict[str, Path] = {}
    which = FLASH if folder.kind == layout.few_steps else ""

    def add(part: str, component: str, form: Format) -> Any:
        config = form.config(folder, component)
        networks[part] = lambda: form.load(folder, component, config, variant=variant)
        return config

    if folder.kind not in layout.priors:
        for part, (component, form) in DECODER_PARTS[layout.kind].items():
            config = add(part, component, form)
            if part == "unet" and config.in_channels > config.out_channels:
                which = INPAINTING
            if part in TOKENIZERS:
                tokenizers[part] = folder.component(TOKENIZERS[part])
    prefix = PREFIX if folder.kind in layout.combined else ""
    if folder.kind in (*layout.priors, *layout.combined):
        for part, (component, form) in PRIOR_PARTS.items():
            add(part, prefix + component, form)
        tokenizers["clip_text"] = folder.component(f"{prefix}tokenizer")
    return Release(layout, networks, tokenizers, lambda: _logit_scale(folder.root / NOTES), which)


def _classes(layout: Layout) -> tuple[str, ...]:
    few_steps = () if layout.few_steps is None else (layout.few_steps,)
    return (*layout.decoders, *few_steps, *layout.priors, *layout.combined)


def _logit_scale(path: Path) -> Tensor:
    """The temperature that a conversion noted down, or the published one."""
    noted: Any = read_json(path).get(LOGIT_SCALE) if path.is_file() else None
    match noted:
        case None:
            return PUBLISHED_LOGIT_SCALE
        case [int() | float() as value, "float32" | "float16" as dtype]:
            return torch.tensor(float(value), dtype=getattr(torch, dtype))
    raise CheckpointError(f"{path} has {LOGIT_SCALE} = {noted!r}.", "Correct or remove it.")


def note_logit_scale(scale: Tensor) -> dict[str, Any]:
    """The note of a temperature, from which its number and dtype come back."""
    return {LOGIT_SCALE: [float(scale), str(scale.dtype).removeprefix("torch.")]}
