"""`kandinsky models`: the embedded checkpoints and those that the hub's cache holds; fetched, verified, removed."""

import hashlib
import json
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.cli.console import err, out, say
from kandinsky.core.errors import KandinskyError, OutputError, RequestError, nearest


@dataclass(frozen=True)
class Installed:
    """A model that loads without a network: what to give `--model`, where it is, its size in bytes.

    `loras` are the names of its own adapters, for `--lora`; `side` is the pixels of a side of the images that it was
    trained on, None where its files do not say.
    """

    id: str
    kind: str
    path: str
    bytes: int
    loras: tuple[str, ...] = ()
    side: int | None = None


def embedded() -> list[Installed]:
    """The checkpoints that came with this package."""
    assets = Path(__file__).resolve().parent.parent / "assets"
    folders = sorted(index.parent for index in assets.glob("*/model_index.json"))
    return [
        Installed(folder.name, "embedded", str(folder), _size(folder), _loras(folder), _side(folder))
        for folder in folders
    ]


def installed() -> list[Installed]:
    """Everything that can be loaded without a network."""
    from kandinsky.checkpoints.hub import cached_models

    cached = [
        Installed(model.id, "cached", str(model.path), model.bytes, side=_side(model.path)) for model in cached_models()
    ]
    return embedded() + sorted(cached, key=lambda model: model.id)


def _loras(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (folder / OWN_ADAPTERS).glob("*.safetensors")))


def _side(folder: Path) -> int | None:
    """Latents along a side, times pixels per latent, as the configurations of a folder in diffusers layout say."""
    try:
        unet, codec = (json.loads((folder / name / "config.json").read_text("utf-8")) for name in ("unet", "movq"))
        levels: int = len(codec["block_out_channels"])
        return int(unet["sample_size"]) << (levels - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def human(size: float) -> str:
    """A number of bytes as people read it: 56.0 MB, 5.0 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def show(*, as_json: bool) -> None:
    """Writes the list as a table, or as JSON."""
    from rich.markup import escape
    from rich.table import Table

    found = installed()
    if as_json:
        say(json.dumps([asdict(model) for model in found], indent=2))
        return
    if not found:
        say("No models are here yet. Give --model a hub id, or a folder.")
        return
    table = Table(box=None, header_style="bold")
    for column in ("Model", "Kind", "Path"):
        table.add_column(column, overflow="fold")
    table.add_column("Draws", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for model in found:
        draws = "" if model.side is None else f"{model.side} x {model.side}"
        table.add_row(escape(model.id), model.kind, escape(str(model.path)), draws, human(model.bytes))
        for name in model.loras:
            table.add_row(escape(f"  --lora {name}"), "adapter", "", "", "")
    out().print(table)


def pull(model: str, prior: str | None, variant: str | None, revision: str | None, *, quiet: bool) -> None:
    """Downloads what `load` would with these arguments, and prints the folders."""
    from kandinsky.core.progress import Bars
    from kandinsky.engine.pipeline import open_sources

    if Path(model).exists():
        raise RequestError(f"{model} is on this machine already.", "Give a hub id, such as owner/name.")
    with Bars(err(), quiet=quiet) as bars:
        bars.start("")
        sources = open_sources(model, prior, variant, revision, bars.download)
    for root in dict.fromkeys(source.root for source in sources if source is not None):
        if not quiet:
            say(str(root))


def _named(model: str) -> Installed:
    """A model of the list; RequestError for one that is not there."""
    found = {one.id: one for one in installed()}
    if model not in found:
        raise RequestError(f"{model!r} is not on this machine.", nearest(model, found))
    return found[model]


def where(model: str | None) -> None:
    """Writes the folder of a model, or that of all downloaded ones."""
    if model is not None:
        say(_named(model).path)
        return
    from huggingface_hub import constants

    say(str(constants.HF_HUB_CACHE))


def remove(model: str, *, yes: bool) -> None:
    """Removes a downloaded model, after a question on a terminal. RequestError for one that cannot be removed."""
    import typer

    found = _named(model)
    if found.kind != "cached":
        raise RequestError(f"{model} came with this package.", "It goes when that is uninstalled.")
    storage = Path(found.path).parents[1]
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError(f"{model} would be removed from {storage}.", "Say --yes.")
        typer.confirm(f"Remove {model} ({human(found.bytes)}) from {storage}?", abort=True, err=True)
    try:
        shutil.rmtree(storage)
    except OSError as error:
        raise OutputError(f"{storage} cannot be removed ({error.strerror or error}).", "Is it in use?") from error
    say(f"{model}: {human(found.bytes)} are free")


def verify(model: str | None) -> bool:
    """Reads every file of models, prints a line for each model and each bad file; returns whether all is well."""
    models = installed() if model is None else [_named(model)]
    well = True
    for one in models:
        bad, proved, read = _bad_files(Path(one.path))
        well = well and not bad
        for line in bad:
            say(f"{one.id}: {line}")
        more = "" if proved == read else f", {read - proved} without a sum could be read"
        say(f"{one.id}: {'damaged' if bad else 'ok'}, {proved} files have their sums{more}")
    return well


def _bad_files(folder: Path) -> tuple[list[str], int, int]:
    """Sentences on bad files, how many were proved by a sum, and how many were read."""
    bad, proved, read = [], 0, 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists():
            bad.append(f"{path.relative_to(folder)} is missing: fetch it again with kandinsky models pull")
        if not path.is_file():
            continue
        read += 1
        wanted = path.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", wanted):
            proved += 1
            if _sum(path, len(wanted)) != wanted:
                bad.append(f"{path.relative_to(folder)} is damaged: remove the model and fetch it again")
        elif (said := _unreadable(path)) is not None:
            bad.append(f"{path.relative_to(folder)} cannot be read ({said})")
    return bad, proved, read


def _sum(path: Path, length: int) -> str:
    """The sum by which the hub names a file: SHA-256 of large ones, git's of small ones."""
    with path.open("rb") as file:
        if length == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        made = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        made.update(file.read())
        return made.hexdigest()


def _unreadable(path: Path) -> str | None:
    """What is wrong with a file that has no sum."""
    try:
        if path.suffix == ".safetensors":
            from kandinsky.checkpoints.weights import read_header

            read_header(path)
        else:
            path.read_bytes()
    except (KandinskyError, OSError, ValueError) as error:
        return str(error)
    return None
