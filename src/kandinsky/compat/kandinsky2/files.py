"""The original files of a release in the folder that existing code names, downloaded when they are
missing."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kandinsky.checkpoints.files import make_folder
from kandinsky.checkpoints.hub import files_in, list_files, resolve_files
from kandinsky.checkpoints.maps.original_files import INPAINTING, TEXT_IMAGE, TWO_TEXTS, OriginalFiles
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_hub import CLIP_REPOSITORY, HALVES, plan_original
from kandinsky.core.errors import HubError
from kandinsky.core.files import whole_file

RELEASES: dict[str, tuple[str, str, OriginalFiles]] = {
    "2.0": ("2_0", "ai-forever/Kandinsky_2.0", TWO_TEXTS),
    "2.1": ("2_1", "ai-forever/Kandinsky_2.1", TEXT_IMAGE),
}
"""By version: the folder inside a cache, the repository, and how its files are called."""


def original_folder(version: str, inpainting: bool, cache_dir: str | Path, token: str | None = None) -> Path:
    """The folder with a release's files, those that are missing fetched from the hub; raises HubError."""
    name, repository, layout = RELEASES[version]
    root = Path(cache_dir).expanduser() / name
    unet = layout.inpainting if inpainting else layout.unet
    variant = INPAINTING if inpainting else None
    if not (root / unet).is_file() or not _is_whole(root, layout, variant):
        files = plan_original(list_files(repository, token=token), layout, variant, HALVES, repository)
        _complete(root, files, repository, token)
    clip = OriginalFolder(root, layout).lacking_clip
    if clip:
        _complete(root / str(layout.clip_folder), clip, CLIP_REPOSITORY, token)
    return root


def _is_whole(root: Path, layout: OriginalFiles, variant: str | None) -> bool:
    with suppress(HubError):
        plan_original(files_in(root), layout, variant, HALVES, str(root))
        return True
    return False


def _complete(root: Path, wanted: Sequence[str], repository: str, token: str | None) -> None:
    """Links those of a repository's files into `root` that it lacks."""
    missing = [file for file in wanted if not (root / file).is_file()]
    source = resolve_files(repository, missing, token=token)
    for file in missing:
        _place(source / file, root / file)


def _place(source: Path, target: Path) -> None:
    """Makes `target` the file that `source` is: by a link, or a copy where there are none."""
    make_folder(target.parent)
    with suppress(OSError, NotImplementedError):
        target.symlink_to(source.resolve())
        return
    with whole_file(target) as copy:
        shutil.copyfile(source, copy)
