"""The known generations, and which of them a source belongs to: by the class in its model index, or by original file
names."""

import re
from functools import partial
from typing import Literal

from kandinsky.checkpoints.convert import convert as convert_between
from kandinsky.checkpoints.maps.networks import UNET
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.generations import k20, k21, k22, k30
from kandinsky.generations.loading import Generation, Placement
from kandinsky.generations.model import Model

__all__ = [
    "GENERATIONS",
    "Model",
    "Placement",
    "Source",
    "convert",
    "denoiser_parameters",
    "kind_for",
    "load_model",
    "needs_prior",
    "write_checkpoint",
]

GENERATIONS: list[Generation] = [k21.GENERATION, k22.GENERATION, k20.GENERATION, k30.GENERATION]
"""All that are known; to add one is to add its row here."""

convert = partial(convert_between, specs=[generation.spec for generation in GENERATIONS])
"""Writes a checkpoint in the other layout, see `checkpoints.convert`."""
write_checkpoint = k22.write_combined
"""Writes networks that were trained here as a whole checkpoint of that generation."""


def kind_for(kind: str, use: Literal["Inpaint", "Controlnet"]) -> str:
    """The class of this kind of folder with a decoder for inpainting or hints; `kind` itself where there is no such
    class."""
    made = re.sub(r"(?:Img2Img)?(Combined)?Pipeline$", rf"{use}\1Pipeline", kind)
    return made if made in _decoders() else kind


def _decoders() -> tuple[str, ...]:
    """The classes of folders that hold a decoder."""
    specs = [generation.spec for generation in GENERATIONS]
    return tuple(kind for spec in specs for kind in spec.folders if kind not in spec.priors)


def _generation(source: Source) -> Generation | None:
    return next((generation for generation in GENERATIONS if generation.spec.holds(source)), None)


def needs_prior(source: Source) -> bool:
    """Whether this decoder's prior lies in a folder of its own."""
    found = _generation(source)
    return found is not None and bool(found.spec.prior) and not found.spec.has_prior(source)


def denoiser_parameters(source: Source, variant: str | None = None) -> int:
    """Approximate number of parameters of a decoder's U-Net, 0 when unknown; original files hold at most four bytes for
    each."""
    try:
        if isinstance(source, OriginalFolder):
            return source.unet_file(variant).stat().st_size // 4
        return sum(tensor.numel() for tensor in source.weights(UNET.name, variant).values())
    except (CheckpointError, OSError):
        return 0


def load_model(decoder: Source, prior: Source | None, place: Placement) -> Model:
    """Loads a decoder, with the prior in `prior` (a folder may hold both) or without one; CheckpointError for a kind of
    model that has no loader, RequestError for an unknown behaviour."""
    generation = _generation(decoder)
    _check_behaviour(decoder, generation, place.behaviour)
    if generation is None:
        raise CheckpointError(
            f"{decoder.root} holds a {decoder.kind or 'model without a name'}, which is not a known decoder.",
            f"Known: {', '.join(_decoders())}.",
        )
    if not generation.spec.prior:
        if prior is not None and prior is not decoder:
            raise CheckpointError(
                f"{decoder.root} holds a decoder that reads texts itself and has no prior.", "Leave prior= out."
            )
        return generation.load(decoder, None, place)
    if not generation.spec.has_decoder(decoder):
        kind = "" if isinstance(decoder, OriginalFolder) else f" ({decoder.kind})"
        raise CheckpointError(
            f"{decoder.root} holds a prior{kind}, not a decoder.",
            "Give the decoder as the model and this folder as prior=.",
        )
    if prior is None:
        return generation.load(decoder, None, place)
    of_prior = _generation(prior)
    if of_prior is None or not of_prior.spec.has_prior(prior):
        known = [kind for one in GENERATIONS for kind in one.spec.priors]
        raise CheckpointError(
            f"{prior.root} holds no prior."
            if isinstance(prior, OriginalFolder)
            else f"{prior.root} holds a {prior.kind or 'model without a name'}, not a prior.",
            f"Known: {', '.join(known)}.",
        )
    return generation.load(decoder, partial(of_prior.load_prior, prior, place), place)


def _check_behaviour(decoder: Source, generation: Generation | None, behaviour: str | None) -> None:
    known: tuple[str, ...] = ()
    if generation is not None and generation.has_behaviours(decoder):
        known = generation.behaviours
    if behaviour is not None and behaviour not in known:
        raise RequestError(
            f"{decoder.root} has no behaviour {behaviour!r}.",
            nearest(behaviour, known) if known else "It has one only; leave behaviour out.",
        )
