"""What lies in a folder of images: found once, in one order, with what was left out and why."""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from kandinsky.core.errors import DataError
from kandinsky.core.image_files import is_image_name
from kandinsky.core.system import cache_folder

METADATA, TABLE = "metadata.jsonl", "metadata.csv"
SHARDS = (".tar", ".tar.gz", ".tgz")
TABLES = (".jsonl", ".csv")
CAPTIONS = (".txt", ".caption")
"""Endings of the files beside images that hold their captions."""
SAVED_DATASETS = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files by which a folder of the package `datasets` is known."""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Trash"})
QUIET = frozenset(
    {*CAPTIONS, *TABLES, *SHARDS, ".json", ".md", ".toml", ".yaml", ".yml", ".parquet", ".arrow", ".lock", ".db"}
    | {".py", ".npy", ".npz", ".safetensors", ".ini", ".html", ".log", ".gz", ".sha256", ""}
)
"""Endings of files that nobody takes for images."""
RUN_KEYS = frozenset({"out", "data", "stage"})
"""What the settings hold that a run leaves in its folder."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder that can be learned from, in the order of their paths.

    `texts` are tables and captions, `left_out` how many files and folders were passed over, by reason.
    """

    root: Path
    images: tuple[Path, ...]
    texts: tuple[Path, ...]
    parquet: tuple[Path, ...]
    shards: tuple[Path, ...]
    left_out: Mapping[str, int]

    @property
    def tables(self) -> list[Path]:
        """The table in the folder itself, or else those in folders below it, the nearest first."""
        found = [path for path in self.texts if path.name in (METADATA, TABLE)]
        own = [path for path in found if path.parent == self.root]
        # Of two in one folder the JSON lines count.
        chosen = {path.parent: path for path in sorted(own or found, key=lambda path: path.name == METADATA)}
        return [chosen[parent] for parent in sorted(chosen)]


def list_folder(root: Path, out: Path | None = None) -> Listing:
    """The files below a folder but hidden ones, those of systems, caches, and the results of runs (`out` is one).

    Links to files are followed, linked folders are not entered. Raises DataError where there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {str(root)!r}.", "Give the folder that holds the images.")
    own = {path.resolve() for path in (out, cache_folder()) if path is not None}
    left, files = Counter[str](), list[Path]()
    for name, folders, here in os.walk(root):
        place = Path(name)
        folders[:] = sorted(folder for folder in folders if not _passed_over(place / folder, own, left))
        files += [place / file for file in here]
    images = []
    for path in sorted(files):
        image = is_image_name(path)
        if path.name.startswith("."):
            left["hidden"] += image
        elif image and not path.exists():
            left["broken link"] += 1
        elif image:
            images.append(path)
        elif path.suffix.lower() not in QUIET:
            left[path.suffix.lower()] += 1
    shown = [path for path in sorted(files) if not path.name.startswith(".")]
    shards = tuple(path for path in shown if path.name.lower().endswith(SHARDS) and path.parent == root)
    texts = tuple(path for path in shown if path.suffix.lower() in (*CAPTIONS, *TABLES))
    parquet = tuple(path for path in shown if path.suffix.lower() == ".parquet")
    if images and shards:
        left["archive"] = len(shards)
    return Listing(root, tuple(images), texts, parquet, shards, dict(left))


def _passed_over(folder: Path, own: Collection[Path], left: Counter[str]) -> bool:
    """Whether a folder is not entered; the reason is counted."""
    reason = ""
    if folder.name.startswith(".") or folder.name in SYSTEM_FOLDERS:
        reason = "hidden folder"
    elif folder.is_symlink():
        reason = "linked folder (not entered)"
    elif folder.resolve() in own or _is_run(folder):
        reason = "folder of a run"
    if reason:
        left[reason] += 1
    return bool(reason)


def _is_run(folder: Path) -> bool:
    """Whether a folder holds the settings that a run of this library leaves in its `out`."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= RUN_KEYS
