"""The networks of a whole checkpoint as stages from scratch name their tensors, so that stages may begin with them."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kandinsky.checkpoints.components import PRIOR_PREFIX, Component
from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.files import INDEX
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION, MOVQ, PRIOR, UNET

PARTS: Mapping[str, Mapping[str, Component]] = {
    "clip": {"towers.text.": CLIP_TEXT, "towers.vision.": CLIP_VISION},
    "prior": {"": PRIOR},
    "decoder": {"": UNET},
    "movq": {"": MOVQ},
}
"""What stages of a method make, by what their tensors' names begin with."""
RUN_TOKENIZER = "tokenizer"
"""The folder of a run's own tokenizer in `out`."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint in diffusers layout, not that of a stage."""
    return (folder / INDEX).is_file()


def checkpoint_weights(folder: Path, method: str) -> tuple[dict[str, Tensor], str]:
    """What a stage of `method` would have made of the networks of a checkpoint, in float32, and a stamp of it.

    Raises CheckpointError when the checkpoint lacks a network, or it is damaged or of another kind.
    """
    source = open_folder(folder)
    found, digest = dict[str, Tensor](), hashlib.sha256()
    for begins, spec in PARTS[method].items():
        network = spec.open(source, prefix=_prefix(source, spec.name))
        digest.update(network.weights.identity().encode())
        state = network.load(torch.float32).state_dict()
        found |= {f"{begins}{name}": tensor for name, tensor in state.items()}
    if method == "clip":
        # Pipelines have no use for the scale of logits, so checkpoints lack it: its first value, as in a new run.
        found["towers.log_scale"] = torch.tensor(math.log(1 / 0.07))
    return found, digest.hexdigest()


def tokenizer_beside(folder: Path) -> Path | None:
    """The tokenizer of a checkpoint, or of the run that a stage's folder belongs to; None where there is none."""
    if is_checkpoint(folder):
        source = open_folder(folder)
        return CLIP_TEXT.tokenizer_folder(source, _prefix(source, str(CLIP_TEXT.tokenizer)))
    beside = folder.parent / RUN_TOKENIZER
    return beside if beside.is_dir() else None


def _prefix(source: Folder, component: str) -> str:
    return PRIOR_PREFIX if f"{PRIOR_PREFIX}{component}" in source.components else ""
