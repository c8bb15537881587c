"""Which folder each component of a pipeline is loaded from, and by which class."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.compat.diffusers.files import Loading, LoadingError
from kandinsky.compat.diffusers.models import PARTS
from kandinsky.compat.diffusers.schedulers import load_scheduler
from kandinsky.compat.diffusers.tokenizers import CLIPImageProcessor, CLIPTokenizer
from kandinsky.core.errors import CheckpointError, nearest

OWN_KEYWORDS = ("load_connected_pipeline", "prior")
"""Keywords of `from_pretrained` beside components and `LOADING`."""


def load_component(folder: Folder, name: str, role: str, settings: Loading) -> Any:
    """Component `name` of a folder, by the class that the folder names for it; `role` is its name in a pipeline.

    Raises CheckpointError for a class that is not known here.
    """
    if role.endswith("scheduler"):
        return load_scheduler(folder, name)
    if role.endswith("tokenizer"):
        return CLIPTokenizer.from_folder(folder, name)
    if role.endswith("image_processor"):
        return CLIPImageProcessor.from_folder(folder, name)
    kind = folder.components.get(name, "")
    if kind not in PARTS:
        raise CheckpointError(f"{folder.root / name} is a {kind or 'component without a class'}.", nearest(kind, PARTS))
    return PARTS[kind].from_folder(folder, name, settings.dtype_of(role), settings.weights_of(folder, name))


def check_variant(settings: Loading, places: Iterable[tuple[Folder, str]]) -> None:
    if settings.variant is None or any(settings.weights_of(folder, name) for folder, name in places):
        return
    raise LoadingError(
        f"You are trying to load the model files of the `variant={settings.variant}`, but no such modeling files are "
        "available.",
        "Leave variant out.",
    )


def absent(folder: Folder) -> set[str]:
    """The components that the index says the pipeline was saved without."""
    return {name for name, value in folder.model_index.items() if value == [None, None]}


def own_name(folder: Folder, components: Collection[str], name: str) -> str:
    """The folder of a component: in a model of both halves the prior's are told apart by a prefix."""
    whole = f"{PRIOR_PREFIX}prior" in folder.components
    return PRIOR_PREFIX + name if whole and "prior" in components else name


def prior_name(source: Folder, name: str) -> str:
    """The folder of a prior's component where the prior lies apart, alone or in a model of both halves."""
    alone = name.removeprefix(PRIOR_PREFIX)
    return name if f"{PRIOR_PREFIX}prior" in source.components else alone


def prior_folder(folder: Folder, prior: object, missing: list[str], settings: Loading) -> Folder:
    """The folder with the components that the decoder's lacks."""
    if others := [name for name in missing if not name.startswith(PRIOR_PREFIX)]:
        raise CheckpointError(
            f"{folder.root} has no {others[0]}.", f"It holds a {folder.kind}; is it the model that you meant?"
        )
    named = prior or folder.prior_reference()
    if named is None:
        raise CheckpointError(
            f"{folder.root} is a decoder without a prior, and its README names none.",
            f"Give prior= a folder or a Hub id, or {missing[0]}= and the other components of one.",
        )
    components = [name.removeprefix(PRIOR_PREFIX) for name in missing]
    return settings.model(str(named), None if Path(str(named)).exists() else components)
