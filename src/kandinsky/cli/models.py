"""`kandinsky models`: the embedded checkpoints and those that the hub's cache holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.cli.console import out, say


@dataclass(frozen=True)
class Installed:
    """A model that loads without a network: what to give `--model`, where it is, its size in bytes.

    `loras` are the names of its own adapters, for `--lora`.
    """

    id: str
    kind: str
    path: str
    bytes: int
    loras: tuple[str, ...] = ()


def embedded() -> list[Installed]:
    """The checkpoints that came with this package."""
    assets = Path(__file__).resolve().parent.parent / "assets"
    folders = sorted(index.parent for index in assets.glob("*/model_index.json"))
    return [Installed(folder.name, "embedded", str(folder), _size(folder), _loras(folder)) for folder in folders]


def installed() -> list[Installed]:
    """Everything that can be loaded without a network."""
    from kandinsky.checkpoints.hub import cached_models

    cached = [Installed(model.id, "cached", str(model.path), model.bytes) for model in cached_models()]
    return embedded() + sorted(cached, key=lambda model: model.id)


def _loras(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (folder / OWN_ADAPTERS).glob("*.safetensors")))


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
    table.add_column("Size", justify="right", no_wrap=True)
    for model in found:
        table.add_row(escape(model.id), model.kind, escape(str(model.path)), human(model.bytes))
        for name in model.loras:
            table.add_row(escape(f"  --lora {name}"), "adapter", "", "")
    out().print(table)
