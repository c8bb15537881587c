"""Where a component lies: in a folder of its own, in a model's folder, or in a Hub repository."""

from collections.abc import Iterable
from pathlib import Path

from kandinsky.checkpoints.diffusers_folder import CONFIGS, Folder, open_folder
from kandinsky.checkpoints.files import INDEX
from kandinsky.checkpoints.hub import resolve
from kandinsky.engine.embedded import EMBEDDED, embedded_folder


def component_folder(
    path: str | Path, subfolder: str | None, *, revision: str | None = None, variant: str | None = None
) -> tuple[Folder, str]:
    """The opened folder around a component, and the component's name in it.

    `path` is a model's folder or Hub id with the component's name as `subfolder`, or the component's own
    folder. Raises CheckpointError when it is not there.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        root = local if subfolder is None else local / subfolder
        if not (root / INDEX).is_file() and any((root / name).is_file() for name in CONFIGS):
            return Folder(root.parent, {}), root.name
    components = None if subfolder is None else (subfolder,)
    folder = model_folder(path, revision=revision, variant=variant, components=components)
    return folder, folder.component(subfolder or "").name


def model_folder(
    path: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    components: Iterable[str] | None = None,
) -> Folder:
    """The opened folder of a model on the disk, of a Hub id, or of the embedded one by its name; raises
    CheckpointError when it is not there."""
    if str(path) == EMBEDDED:
        return open_folder(embedded_folder())
    return open_folder(resolve(path, revision=revision, variant=variant, components=components))
