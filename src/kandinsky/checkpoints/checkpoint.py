"""A checkpoint in either layout: networks that are loaded on demand, and tokenizer folders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import CheckpointSpec, Component
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.files import OWN_SETTINGS, Json, read_json
from kandinsky.checkpoints.maps.clip import logit_scale
from kandinsky.checkpoints.maps.networks import CLIP_TEXT
from kandinsky.checkpoints.maps.original_files import FLASH, INPAINTING
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.core.errors import CheckpointError

LOGIT_SCALE = "clip_logit_scale"
PUBLISHED_LOGIT_SCALE = torch.tensor(4.6052)
"""CLIP's temperature in every published file, of which no generation makes use."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A decoder, a prior, or both: loaders of their networks by component, and the folders of their tokenizers.

    `logit_scale` is CLIP's; `variant` is the variant of the U-Net, see `OriginalFiles.unets`.
    """

    spec: CheckpointSpec
    decoder: Mapping[str, Callable[[], nn.Module]]
    prior: Mapping[str, Callable[[], nn.Module]]
    tokenizers: Mapping[str, Path]
    prior_tokenizer: Path | None = None
    logit_scale: Callable[[], Tensor] = lambda: PUBLISHED_LOGIT_SCALE
    variant: str = ""

    def joined(self, other: "Checkpoint") -> "Checkpoint":
        """Both together, a decoder and a prior of one generation; CheckpointError for anything else."""
        twice = sorted({*self.decoder} & {*other.decoder} | {*self.prior} & {*other.prior})
        if self.spec != other.spec or twice:
            raise CheckpointError(
                f"These are no decoder and its prior: both have {', '.join(twice)}."
                if twice
                else "These are a decoder and a prior of different releases.",
                "Give a decoder and the prior that belongs to it.",
            )
        return Checkpoint(
            self.spec,
            {**self.decoder, **other.decoder},
            {**self.prior, **other.prior},
            {**self.tokenizers, **other.tokenizers},
            self.prior_tokenizer or other.prior_tokenizer,
            other.logit_scale if other.prior else self.logit_scale,
            self.variant or other.variant,
        )


def read_checkpoint(source: Source, specs: Sequence[CheckpointSpec], variant: str | None = None) -> Checkpoint:
    """The content of a source of one of these generations; CheckpointError for one that has no other layout. `variant`
    chooses among weights that are there several times."""
    known = [spec for spec in specs if spec.files is not None]
    spec = next((spec for spec in known if spec.holds(source)), None)
    if spec is None:
        raise CheckpointError(
            f"{source.root} holds a {source.kind or 'model without a name'}, which has no other layout.",
            f"Known: {', '.join(name for spec in known for name in spec.folders)}.",
        )
    prefix = spec.prefix(source)
    decoder = spec.decoder if spec.has_decoder(source) else ()
    prior = spec.prior if spec.has_prior(source) else ()
    if isinstance(source, Folder):
        for one in decoder:
            one.config(source)
        for one in prior:
            one.config(source, prefix + one.name)
    return Checkpoint(
        spec,
        {one.name: partial(_load, one, source, variant) for one in decoder},
        {one.name: partial(_load, one, source, variant, prefix) for one in prior},
        {one.name: one.tokenizer_folder(source) for one in decoder if one.tokenizer},
        CLIP_TEXT.tokenizer_folder(source, prefix) if prior else None,
        lambda: _logit_scale(source),
        _variant(source, spec, variant) if decoder else "",
    )


def _load(spec: Component, source: Source, variant: str | None, prefix: str = "") -> nn.Module:
    network: nn.Module = spec.open(source, variant, prefix=prefix).load()
    return network


def _variant(source: Source, spec: CheckpointSpec, variant: str | None) -> str:
    if isinstance(source, OriginalFolder):
        return source.chosen(variant)
    if source.kind == spec.few_steps:
        return FLASH
    unet = spec.decoder[0].config(source)
    return INPAINTING if unet.in_channels > unet.out_channels else ""


def _logit_scale(source: Source) -> Tensor:
    """CLIP's temperature: of original files, as a conversion noted it, or the published one."""
    if isinstance(source, OriginalFolder):
        return logit_scale(source)
    path = source.root / OWN_SETTINGS
    noted: object = read_json(path).get(LOGIT_SCALE) if path.is_file() else None
    match noted:
        case None:
            return PUBLISHED_LOGIT_SCALE
        case [int() | float() as value, "float32" | "float16" as dtype]:
            return torch.tensor(float(value), dtype=getattr(torch, dtype))
    raise CheckpointError(f"{path} has {LOGIT_SCALE} = {noted!r}.", "Correct or remove it.")


def note_logit_scale(scale: Tensor) -> Json:
    """The note of a temperature, from which its number and dtype come back."""
    return {LOGIT_SCALE: [float(scale), str(scale.dtype).removeprefix("torch.")]}
