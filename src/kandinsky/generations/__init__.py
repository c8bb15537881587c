"""Which generation a folder is of: the class in its model index says so, or the names of original files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.generations import k20, k21, k22, k30
from kandinsky.generations.model import Model
from kandinsky.generations.parts import COMBINED_PREFIX, Placement, load_prior

__all__ = [
    "Model",
    "Placement",
    "Source",
    "denoiser_parameters",
    "kind_for",
    "load_model",
    "needs_prior",
    "write_checkpoint",
]

Source = Folder | OriginalFolder

_DECODERS = (*k21.DECODERS, *k22.DECODERS)
_COMBINED = (*k21.COMBINED, *k22.COMBINED)
_PRIORS = (*k21.PRIORS, *k22.PRIORS)
_WITHOUT_PRIOR = {
    **dict.fromkeys(k20.FOLDERS, k20.load_model),
    **dict.fromkeys(k30.FOLDERS, k30.load_model),
}
_ORIGINALS_WITHOUT_PRIOR = {k20.ORIGINAL: k20.load_original, k30.ORIGINAL: k30.load_original}
_WITH_PRIOR = {
    **dict.fromkeys((*k21.DECODERS, *k21.COMBINED), k21.load_model),
    **dict.fromkeys((*k22.DECODERS, *k22.COMBINED), k22.load_model),
}
_KNOWN = (*_DECODERS, *_COMBINED, *_WITHOUT_PRIOR)
_BEHAVIOURS: Mapping[str, Mapping[str, object]] = {
    **dict.fromkeys((k20.ORIGINAL, *k20.FOLDERS), k20.BEHAVIOURS),
    k30.ORIGINAL: k30.BEHAVIOURS,
}

write_checkpoint = k22.write_combined
"""Writes networks that were trained here as a whole checkpoint of the generation they are of."""


def kind_for(kind: str, use: Literal["Inpaint", "Controlnet"]) -> str:
    """What a folder of this kind is called when its decoder repaints or follows hints; the same where there
    is one name.
    """
    made = re.sub(r"(?:Img2Img)?(Combined)?Pipeline$", rf"{use}\1Pipeline", kind)
    return made if made in _KNOWN else kind


def needs_prior(source: Source) -> bool:
    """Whether this decoder's prior lies in a folder of its own."""
    if isinstance(source, OriginalFolder):
        return source.kind == k21.ORIGINAL and not source.has_prior
    return source.kind in _DECODERS


def denoiser_parameters(source: Source, variant: str | None = None) -> int:
    """About how many parameters the U-Net of a decoder has, 0 where that cannot be read; no weight is.

    Original files hold at most four bytes for each.
    """
    if isinstance(source, OriginalFolder):
        try:
            path = source.root / source.layout.unets[source.chosen(variant)]
            return path.stat().st_size // 4
        except (CheckpointError, KeyError, OSError):
            return 0
    try:
        return sum(tensor.numel() for tensor in source.weights("unet", variant).values())
    except (CheckpointError, OSError):
        return 0


def load_model(decoder: Source, prior: Source | None, place: Placement) -> Model:
    """Loads a decoder, with the prior that lies in `prior` (a folder may hold both) or alone.

    Raises CheckpointError for a kind of model that has no loader, and RequestError for a behaviour that it
    does not have.
    """
    _check_behaviour(decoder, place.behaviour)
    if decoder.kind in _WITHOUT_PRIOR or decoder.kind in _ORIGINALS_WITHOUT_PRIOR:
        if prior is not None and prior is not decoder:
            raise CheckpointError(
                f"{decoder.root} holds a decoder that reads texts itself and has no prior.",
                "Leave prior= out.",
            )
        if isinstance(decoder, OriginalFolder):
            return _ORIGINALS_WITHOUT_PRIOR[decoder.kind](decoder, place)
        return _WITHOUT_PRIOR[decoder.kind](decoder, place)
    stage = None if prior is None else lambda: _load_stage(prior, place)
    if isinstance(decoder, OriginalFolder):
        if not decoder.has_decoder:
            raise CheckpointError(
                f"{decoder.root} holds a prior, not a decoder.",
                "Give the decoder as the model and this folder as prior=.",
            )
        _check_prior(prior)
        return k21.load_original(decoder, stage, place)
    if decoder.kind in _PRIORS:
        raise CheckpointError(
            f"{decoder.root} holds a prior ({decoder.kind}), not a decoder.",
            "Give the decoder as the model and this folder as prior=.",
        )
    if decoder.kind not in _WITH_PRIOR:
        raise CheckpointError(
            f"{decoder.root} holds a {decoder.kind or 'model without a name'}, which is no known decoder.",
            f"Known: {', '.join(_KNOWN)}.",
        )
    _check_prior(prior)
    return _WITH_PRIOR[decoder.kind](decoder, stage, place)


def _check_behaviour(decoder: Source, behaviour: str | None) -> None:
    known = tuple(_BEHAVIOURS.get(decoder.kind, ()))
    if behaviour is not None and behaviour not in known:
        raise RequestError(
            f"{decoder.root} has no behaviour {behaviour!r}.",
            nearest(behaviour, known) if known else "It has one only; leave behaviour out.",
        )


def _check_prior(prior: Source | None) -> None:
    if isinstance(prior, OriginalFolder) and not prior.has_prior:
        raise CheckpointError(f"{prior.root} holds no prior.", "Give a folder that does.")
    if isinstance(prior, Folder) and prior.kind not in (*_PRIORS, *_COMBINED):
        raise CheckpointError(
            f"{prior.root} holds a {prior.kind or 'model without a name'}, not a prior.",
            f"Known: {', '.join(_PRIORS)}.",
        )


def _load_stage(prior: Source, place: Placement) -> PriorStage:
    if isinstance(prior, OriginalFolder):
        return k21.load_original_prior(prior, place)
    # That variant is one of original files; the prior of another folder has none of it.
    place = replace(place, variant=None) if place.variant == INPAINTING else place
    return load_prior(prior, place, COMBINED_PREFIX if prior.kind in _COMBINED else "")
