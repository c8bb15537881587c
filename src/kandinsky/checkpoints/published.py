"""A model by its name, opened: a folder on this machine or a hub id, in either layout."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kandinsky.checkpoints.diffusers_folder import Folder
from kandinsky.checkpoints.hub import list_files, resolve, resolve_files
from kandinsky.checkpoints.hub_download import Progress
from kandinsky.checkpoints.original import OriginalFolder, open_checkpoint
from kandinsky.checkpoints.original_hub import CLIP_REPOSITORY, DECODER, HALVES, PRIOR, plan_encoder


def open_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    halves: Iterable[str] = HALVES,
    weights: bool = True,
    on_progress: Progress | None = None,
) -> Folder | OriginalFolder:
    """Opens a model; `halves` says what is wanted of one in original files, see `resolve`.

    Without `weights` one in diffusers layout is outlined: only its small files are fetched and looked at.

    The releases of original files take CLIP or a text encoder from where it was published; for one on the hub
    that is done here too. Raises CheckpointError for a folder that is no model, HubError for all that can go
    wrong with a hub.
    """
    wanted = tuple(halves)
    path = resolve(
        model, revision=revision, variant=variant, halves=wanted, weights=weights, on_progress=on_progress
    )
    opened = open_checkpoint(path)
    if isinstance(opened, Folder) and not weights:
        return replace(opened, outlined=True)
    if Path(model).expanduser().exists() or not isinstance(opened, OriginalFolder):
        return opened
    if PRIOR in wanted and opened.lacking_clip:
        clip = resolve_files(CLIP_REPOSITORY, opened.lacking_clip, on_progress=on_progress)
        opened = replace(opened, clip=clip)
    if DECODER in wanted and (elsewhere := opened.lacking_encoder):
        files = plan_encoder(list_files(elsewhere), elsewhere)
        encoder = resolve_files(elsewhere, files, on_progress=on_progress)
        opened = replace(opened, text_encoder=encoder)
    return opened
