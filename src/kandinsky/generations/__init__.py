"""Which generation a folder is of: the class in its model index says so."""

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.core.errors import CheckpointError
from kandinsky.generations import k22
from kandinsky.generations.k22 import Placement
from kandinsky.generations.model import Model

__all__ = ["Model", "Placement", "load_model", "needs_prior", "write_checkpoint"]

_LOADERS = dict.fromkeys((*k22.DECODERS, *k22.COMBINED), k22.load_model)
_PRIORS = k22.PRIORS
_COMBINED = k22.COMBINED

write_checkpoint = k22.write_combined
"""Writes networks that were trained here as a whole checkpoint of the generation they are of."""


def needs_prior(folder: Folder) -> bool:
    """Whether this decoder's prior lies in a folder of its own."""
    return folder.kind in _LOADERS and folder.kind not in _COMBINED


def load_model(decoder: Folder, prior: Folder | None, place: Placement) -> Model:
    """Loads a decoder, with the prior that lies in `prior` (a combined folder may be both) or alone.

    Raises CheckpointError for a kind of model that has no loader.
    """
    if decoder.kind in _PRIORS:
        raise CheckpointError(
            f"{decoder.root} holds a prior ({decoder.kind}), not a decoder.",
            "Give the decoder as the model and this folder as prior=.",
        )
    if decoder.kind not in _LOADERS:
        raise CheckpointError(
            f"{decoder.root} holds a {decoder.kind or 'model without a name'}, which is no known decoder.",
            f"Known: {', '.join(_LOADERS)}.",
        )
    if prior is not None and prior.kind not in (*_PRIORS, *_COMBINED):
        raise CheckpointError(
            f"{prior.root} holds a {prior.kind or 'model without a name'}, not a prior.",
            f"Known: {', '.join(_PRIORS)}.",
        )
    return _LOADERS[decoder.kind](decoder, prior, place)
