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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kandinsky.core.errors import ConfigError, DataError, OutputError, RequestError, nearest
from kandinsky.core.image_files import is_image_name
from kandinsky.core.images import read_layers
from kandinsky.core.system import cache_folder
from kandinsky.core.texts import decode_text
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json
from kandinsky.training.data.folder import CAPTION_COLUMNS, SOURCE, Columns, caption_in
from kandinsky.training.data.listing import CAPTIONS, METADATA, SAVED_DATASETS, SHARDS

UNPACKED = "datasets"
LAYOUT = 2
"""Of what is unpacked: what an older version has left is not used again."""
IMAGE_COLUMNS = ("image", "img", "picture")
Row = tuple[bytes, str, str, str]
"""An image's file, its suffix, its caption and where it comes from."""


@dataclass
class _Sample:
    """The parts of a shard that belong together: the image, and where a caption may be."""

    image: tarfile.TarInfo | None = None
    text: tarfile.TarInfo | None = None
    table: tarfile.TarInfo | None = None
    others: list[str] = field(default_factory=list)


def unpack_shards(root: Path, *, optional: bool = False) -> Path | None:
    """Unpacks the `.tar` shards that `root` is or holds; returns the folder, None where there are none.

    In a shard files of one name with different endings belong together, wherever they stand in it: an image, and its
    caption as `.txt` or `.caption` (also behind the image's own ending, `a.jpeg.txt`), or in a `.json`. Raises
    DataError for a damaged shard, and for an image without a caption unless these are `optional`.
    """
    if root.is_file() and root.name.lower().endswith(SHARDS):
        shards = [root]
    else:
        shards = sorted(path for path in root.glob("*") if path.name.lower().endswith(SHARDS) and path.is_file())
    if not shards:
        return None
    digest = hashlib.sha256(f"{LAYOUT}|".encode())
    for shard in shards:
        found = shard.stat()
        digest.update(os.fsencode(f"{shard.resolve()}|{found.st_size}|{found.st_mtime_ns}\n"))
    return _unpacked(digest.hexdigest()[:32], (row for shard in shards for row in _rows_of_shard(shard, optional)))


def is_dataset(root: Path) -> bool:
    """Whether a folder was saved by the package `datasets`."""
    return any((root / name).is_file() for name in SAVED_DATASETS)


def unpack_dataset(name: str, split: str, columns: Columns = Columns(), *, optional: bool = False) -> Path:
    """Unpacks a split of a Hugging Face dataset and returns the folder it is in.

    `name` is a Hub id, or a folder: saved by the package `datasets`, of parquet files, or an image folder. `columns`
    are its own, the usual ones are found. Raises ConfigError when the package is missing or a column is not there,
    DataError when the dataset cannot be had, and for a row without an image, or without a caption unless these are
    `optional`.
    """
    table = _open_dataset(name, split)
    known = list(table.column_names)
    image = _column(known, columns.image, IMAGE_COLUMNS, "image")
    bare = optional and columns.caption is None and not set(known) & {*CAPTION_COLUMNS}
    caption = None if bare else _column(known, columns.caption, CAPTION_COLUMNS, "caption")
    stamp = f"{LAYOUT}|{name}|{split}|{image}|{caption}|{getattr(table, '_fingerprint', len(table))}"
    key = hashlib.sha256(stamp.encode()).hexdigest()[:32]
    return _unpacked(key, _rows_of_dataset(_undecoded(table, image), name, image, caption, optional))


def _open_dataset(name: str, split: str) -> Any:
    try:
        package: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            f"{name!r} is read by the package datasets, which cannot be imported ({error}).",
            "pip install 'kandinsky-diffusion[train]' (or pip install datasets), or give a folder of images.",
        ) from error
    try:
        if Path(name).is_dir() and is_dataset(Path(name)):
            table = package.load_from_disk(name)
            if isinstance(table, dict) and split not in table:
                raise DataError(f"The dataset {name!r} has no split {split!r}.", nearest(split, table))
            return table[split] if isinstance(table, dict) else table
        return package.load_dataset(name, split=split)
    except DataError:
        raise
    except Exception as error:  # whatever loaders, networks and formats raise
        said = " ".join(str(error).split())
        raise DataError(f"The dataset {name!r} cannot be loaded: {said}.", "Check its name and its split.") from error


def _undecoded(table: Any, image: str) -> Any:
    """The table with its images as the files they are, where it is one of the package itself."""
    features = getattr(table, "features", None)
    if features is None or type(features[image]).__name__ != "Image":
        return table
    return table.cast_column(image, importlib.import_module("datasets").Image(decode=False))


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


def _rows_of_dataset(
    table: Iterable[Mapping[str, object]], name: str, image: str, caption: str | None, optional: bool
) -> Iterator[Row]:
    for number, row in enumerate(table, start=1):
        place = f"Row {number} of the dataset {name!r}"
        said = "" if caption is None else caption_in(row[caption])
        if not said and not optional:
            raise DataError(
                f"{place} has no caption (column {caption!r} is {row[caption or '']!r}).",
                "Leave it out, or set data.caption_column.",
            )
        content, suffix = _image_file(row[image], place, image)
        yield content, suffix, said, place


def _image_file(value: object, place: str, column: str) -> tuple[bytes, str]:
    """An image of a dataset as a file, and its suffix."""
    from PIL import Image

    if isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        path = Path(str(value.get("path") or ""))
        suffix = path.suffix.lower() if is_image_name(path) else ".png"
        try:
            return bytes(value.get("bytes") or b"") or path.read_bytes(), suffix
        except OSError as error:
            raise DataError(f"{place}: {path} cannot be read ({error.strerror}).", "Download it again.") from error
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        try:
            read_layers(value).save(buffer, "PNG")
        except RequestError as error:
            raise DataError(f"{place}: {error.message}", error.hint) from error
        return buffer.getvalue(), ".png"
    what = "no image" if value is None else f"a {type(value).__name__}, no images"
    raise DataError(f"{place}: the column {column!r} holds {what}.", "Set data.image_column.")


def _rows_of_shard(shard: Path, optional: bool) -> Iterator[Row]:
    try:
        with tarfile.open(shard) as archive:
            for name, sample in _samples(archive).items():
                if sample.image is None and sample.text is None:
                    continue
                if sample.image is None:
                    beside = f" It has {', '.join(sample.others)}." if sample.others else ""
                    raise DataError(f"In the shard {shard} {name!r} has no image.{beside}", "Pillow reads none of it.")
                caption = _caption(archive, shard, sample)
                if not caption and not optional:
                    raise DataError(
                        f"In the shard {shard} {name!r} has no caption.",
                        "Each image needs a .txt or a .json with caption, of the same name.",
                    )
                yield (
                    _content(archive, sample.image),
                    _ending(sample.image.name),
                    caption,
                    f"{name!r} in the shard {shard}",
                )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"The shard {shard} is damaged: {error}.", "Download it again.") from error


def _samples(archive: tarfile.TarFile) -> dict[str, _Sample]:
    """The samples of an archive by their names, in the order in which they begin; hidden files are left out."""
    found: dict[str, _Sample] = {}
    for member in archive:
        base = member.name.rpartition("/")[2]
        if not member.isfile() or base.startswith(".") or "__MACOSX" in member.name.split("/"):
            continue
        ending = _ending(member.name)
        name = member.name[: len(member.name) - len(ending)] if ending else member.name
        text, table = ending in CAPTIONS, ending == ".json"
        if (text or table) and is_image_name(name):
            name = name[: len(name) - len(Path(name).suffix)]
        sample = found.setdefault(name.strip("/"), _Sample())
        if text:
            sample.text = sample.text or member
        elif table:
            sample.table = sample.table or member
        elif is_image_name(base):
            sample.image = sample.image or member
        else:
            sample.others.append(ending)
    # By the format a name ends at its first dot: what has other parts (0.seg.png) is no sample of its own.
    return {name: sample for name, sample in found.items() if not _is_part(name, sample, found)}


def _is_part(name: str, sample: _Sample, found: Mapping[str, _Sample]) -> bool:
    folder, _, base = name.rpartition("/")
    stem = base.partition(".")[0]
    whole = found.get(f"{folder}/{stem}" if folder else stem)
    bare = sample.text is None and sample.table is None
    return bare and whole is not None and whole is not sample and whole.image is not None


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    # Only contents are read; where an archive wants its files to lie does not matter.
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _caption(archive: tarfile.TarFile, shard: Path, sample: _Sample) -> str:
    """The caption of a sample: its text, or else what its JSON says."""
    if sample.text is not None:
        place = f"{sample.text.name!r} in the shard {shard}"
        if caption := caption_in(decode_text(_content(archive, sample.text), place)):
            return caption
    if sample.table is None:
        return ""
    try:
        content = parse_json(
            decode_text(_content(archive, sample.table), f"{sample.table.name!r} in the shard {shard}")
        )
    except UnsoundTextError:
        return ""
    if not isinstance(content, dict):
        return ""
    return next((found for key in CAPTION_COLUMNS if (found := caption_in(content.get(key)))), "")


def _unpacked(key: str, rows: Iterable[Row]) -> Path:
    """The folder that holds these rows, filled now unless it is there; it appears when it is complete."""
    target = cache_folder() / UNPACKED / key
    if target.is_dir():
        return target
    aside = target.with_name(f".{key}.{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        with (aside / METADATA).open("w", encoding="utf-8") as lines:
            for number, (content, suffix, caption, place) in enumerate(rows):
                name = f"{number:08d}{suffix}"
                (aside / name).write_bytes(content)
                row = {"file_name": name, "caption": caption, SOURCE: place}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.rename(aside, target)
    except OSError as error:
        if not target.is_dir():
            raise OutputError(
                f"{target} cannot be written ({error.strerror or error}).", "Set KANDINSKY_CACHE to another place."
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target
