"""Builds a checkpoint from its configurations, with every network on the meta device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.engine.embedded import EMBEDDED
from kandinsky.engine.pipeline import Pipeline, load, open_sources
from kandinsky.generations import Placement, load_model


def meta_model(
    model: str | Path | None = None,
    *,
    prior: str | Path | bool | None = None,
    variant: str | None = None,
    revision: str | None = None,
    behaviour: str | None = None,
    lora: Mapping[str, float] | None = None,
    words: Sequence[str] = (),
    device: str | torch.device | None = None,
    dtype: str = "float32",
) -> Pipeline:
    """A checkpoint whose networks are on the meta device; the arguments are those of `load`.

    Of a Hub id in diffusers layout only the small files are fetched. Original files, whose sizes stand in
    their tensors, are loaded whole, onto the CPU. Images cannot be drawn with it. Raises what `load` does.
    """
    sources = open_sources(model, prior, variant, revision, weights=False)
    if any(isinstance(source, OriginalFolder) for source in sources):
        return load(
            model,
            prior=prior,
            variant=variant,
            revision=revision,
            behaviour=behaviour,
            lora=lora,
            words=words,
            device="cpu",
            dtype=dtype,
        )
    kind = cast(torch.dtype, getattr(torch, dtype))
    place = Placement(torch.device("cpu"), kind, variant, behaviour, on_meta=True)
    pipe = Pipeline(load_model(*sources, place), EMBEDDED if model is None else str(model))
    for source, scale in (lora or {}).items():
        pipe.load_lora(source, scale)
    for source in words:
        pipe.load_words(source)
    return pipe
