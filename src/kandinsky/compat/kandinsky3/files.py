"""The original files of Kandinsky 3.1 where existing code has them: by path, in a folder, or published."""

from dataclasses import replace
from pathlib import Path

from kandinsky.checkpoints.hub import list_files, resolve, resolve_files
from kandinsky.checkpoints.maps.original_files import ONE_TEXT
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_hub import DECODER, plan_original
from kandinsky.core.errors import CheckpointError

REPOSITORY = "ai-forever/Kandinsky3.1"
Given = str | Path | None
PARTS = 3


def original_folder(
    variant: str | None, cache_dir: str | Path, unet: Given, text_encoder: Given, movq: Given
) -> OriginalFolder:
    """The files of the U-Net of that variant and of the parts beside it.

    `unet` and `movq` are files, `text_encoder` a folder. Those that are not given are looked for in
    `cache_dir`, under their published names, and fetched into it when it has none. Raises CheckpointError for
    a given one that is not there, HubError for downloads.
    """
    published = ONE_TEXT.unets[variant or ""]
    given = {published: unet, ONE_TEXT.text_encoder: text_encoder, ONE_TEXT.codec: movq}
    paths = {name: _there(path) for name, path in given.items() if path is not None}
    wanted = [name for name in given if name not in paths]
    if wanted:
        root = _root(wanted, variant, Path(cache_dir).expanduser())
        paths |= {name: root / name for name in wanted}
    files = {name: str(path) for name, path in paths.items()}

    def at(name: str) -> str:
        return files.get(name, name)

    layout = replace(
        ONE_TEXT,
        unet=at(ONE_TEXT.unet),
        inpainting=at(ONE_TEXT.inpainting),
        flash=at(ONE_TEXT.flash or ""),
        codec=at(ONE_TEXT.codec),
        text_encoder=at(ONE_TEXT.text_encoder),
        projections=tuple((at(name), file) for name, file in ONE_TEXT.projections),
    )
    return OriginalFolder(paths[published].parent, layout)


def _there(path: str | Path) -> Path:
    found = Path(path).expanduser().absolute()
    if not found.exists():
        raise CheckpointError(f"There is no {found}.", "Check the path, or leave it out to download.")
    return found


def _root(wanted: list[str], variant: str | None, cache: Path) -> Path:
    """The folder that holds the wanted parts under their published names."""
    if all((cache / name).exists() for name in wanted):
        return cache
    if len(wanted) == PARTS:
        return resolve(REPOSITORY, variant=variant, cache=cache)
    planned = plan_original(list_files(REPOSITORY), ONE_TEXT, variant, (DECODER,), REPOSITORY)
    # The projection of a U-Net lies beside the text encoder: who gives the one has the other.
    return resolve_files(REPOSITORY, [name for name in planned if name.startswith(tuple(wanted))], cache=cache)
