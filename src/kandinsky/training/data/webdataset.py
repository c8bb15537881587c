"""Images with captions that do not lie in a folder: shards of a WebDataset, and Hugging Face datasets.

They are unpacked once into the cache folder, as files with a `metadata.jsonl`, and read from there.
"""

import hashlib
import importlib
import io
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from kandinsky.core.errors import ConfigError, DataError, OutputError, nearest
from kandinsky.core.system import cache_folder
from kandinsky.training.data.folder import CAPTION_COLUMNS, IMAGE_SUFFIXES, METADATA

SHARDS = ".tar"
UNPACKED = "datasets"
IMAGE_COLUMNS = ("image", "img", "picture")
Row = tuple[bytes, str, str]
"""An image's file, its suffix and its caption."""


def unpack_shards(root: Path) -> Path | None:
    """Unpacks the `.tar` shards that `root` is or holds; returns the folder, None where there are none.

    In a shard files of one name with different endings belong together: an image, and its caption as `.txt`
    or under `caption` in `.json`. Raises DataError for a damaged shard and for an image without a caption.
    """
    shards = [root] if root.is_file() and root.suffix == SHARDS else sorted(root.glob(f"*{SHARDS}"))
    if not shards:
        return None
    digest = hashlib.sha256()
    for shard in shards:
        found = shard.stat()
        digest.update(f"{shard.resolve()}|{found.st_size}|{found.st_mtime_ns}\n".encode())
    return _unpacked(digest.hexdigest()[:32], (row for shard in shards for row in _rows_of_shard(shard)))


def unpack_dataset(name: str, split: str, image: str | None = None, caption: str | None = None) -> Path:
    """Unpacks a split of a Hugging Face dataset (a Hub id or a folder) and returns the folder it is in.

    `image` and `caption` name its columns, the usual ones are found. Raises ConfigError when the package
    `datasets` is missing or a column is not there, DataError when the dataset cannot be had.
    """
    try:
        package: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"data.dataset is {name!r}, but the package datasets cannot be imported ({error}).",
            "pip install datasets, or give a folder.",
        ) from error
    try:
        if Path(name).is_dir():
            table = package.load_from_disk(name)
            table = table[split] if isinstance(table, dict) else table
        else:
            table = package.load_dataset(name, split=split)
    except Exception as error:  # whatever loaders, networks and formats raise
        raise DataError(f"The dataset {name!r} cannot be loaded: {error}.", "Check its name and its split.") from error
    columns = list(table.column_names)
    chosen = (_column(columns, image, IMAGE_COLUMNS, "image"), _column(columns, caption, CAPTION_COLUMNS, "caption"))
    stamp = f"{name}|{split}|{chosen}|{getattr(table, '_fingerprint', len(table))}"
    key = hashlib.sha256(stamp.encode()).hexdigest()[:32]
    return _unpacked(key, _rows_of_table(table, *chosen))


def _column(columns: list[str], named: str | None, usual: tuple[str, ...], what: str) -> str:
    if named is not None:
        if named not in columns:
            raise ConfigError(f"The dataset has no column {named!r}.", nearest(named, columns))
        return named
    found = next((column for column in usual if column in columns), None)
    if found is None:
        raise ConfigError(
            f"The dataset has none of the columns {', '.join(usual)}.",
            f"Set data.{what}_column to one of: {', '.join(columns)}.",
        )
    return found


def _rows_of_table(table: Iterable[Mapping[str, object]], image: str, caption: str) -> Iterator[Row]:
    for row in table:
        said = row[caption]
        said = said[0] if isinstance(said, list) and said else said
        buffer = io.BytesIO()
        source = row[image]
        if not isinstance(source, Image.Image):
            raise DataError(
                f"The dataset's column {image!r} holds a {type(source).__name__}, no images.", "Set data.image_column."
            )
        source.convert("RGBA" if "A" in source.getbands() else "RGB").save(buffer, "PNG")
        yield buffer.getvalue(), ".png", str(said)


def _rows_of_shard(shard: Path) -> Iterator[Row]:
    try:
        with tarfile.open(shard) as archive:
            name, parts = "", dict[str, bytes]()
            for member in archive:
                # Only contents are read; where an archive wants its files to lie does not matter.
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                whole = f"{member.name.rpartition('/')[0]}/{stem}"
                if whole != name and parts:
                    yield _row(shard, name, parts)
                    parts = {}
                name = whole
                parts[f".{suffix.lower()}"] = file.read()
            if parts:
                yield _row(shard, name, parts)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"The shard {shard} is damaged: {error}.", "Download it again.") from error


def _row(shard: Path, name: str, parts: dict[str, bytes]) -> Row:
    suffix = next((suffix for suffix in parts if suffix in IMAGE_SUFFIXES), None)
    caption = parts.get(".txt", b"").decode("utf-8", "replace")
    if not caption and ".json" in parts:
        try:
            content = json.loads(parts[".json"])
        except ValueError:
            content = None
        if isinstance(content, dict):
            caption = next((str(content[key]) for key in CAPTION_COLUMNS if content.get(key)), "")
    if suffix is None or not caption.strip():
        lacking = "image" if suffix is None else "caption"
        raise DataError(
            f"In the shard {shard} {name.strip('/')!r} has no {lacking}.",
            "Each name needs an image, and a .txt or a .json with caption.",
        )
    return parts[suffix], suffix, " ".join(caption.split())


def _unpacked(key: str, rows: Iterable[Row]) -> Path:
    """The folder that holds these rows, filled now unless it is there; it appears when it is complete."""
    target = cache_folder() / UNPACKED / key
    if target.is_dir():
        return target
    aside = target.with_name(f".{key}.{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        with (aside / METADATA).open("w", encoding="utf-8") as lines:
            for number, (content, suffix, caption) in enumerate(rows):
                name = f"{number:08d}{suffix}"
                (aside / name).write_bytes(content)
                lines.write(json.dumps({"file_name": name, "caption": caption}, ensure_ascii=False) + "\n")
        os.rename(aside, target)
    except OSError as error:
        if not target.is_dir():
            raise OutputError(
                f"{target} cannot be written ({error.strerror or error}).", "Set KANDINSKY_CACHE to another place."
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target
