"""`kandinsky show`: what the file of an image says of how it was made."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kandinsky.cli.console import out, say
from kandinsky.core.errors import RequestError
from kandinsky.core.foreign_metadata import read_foreign
from kandinsky.core.image_files import open_image_file
from kandinsky.core.metadata import prompt_text, read_metadata


def show(path: Path, *, as_json: bool) -> None:
    """Writes a table, or JSON: the tool, the request, the model. RequestError for a file that says nothing."""
    with open_image_file(path) as image:
        shape = {"format": image.format, "width": image.width, "height": image.height}
    found = _found(path)
    if as_json:
        say(json.dumps({"path": str(path), **shape, **found}, indent=2, ensure_ascii=False))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {"file": f"{path} ({shape['format']}, {shape['width']} x {shape['height']})", "made by": found["tool"]}
    rows |= {"model": found["model"]}
    rows |= {
        name: prompt_text(value) if name == "prompt" else _shown(value) for name, value in found["request"].items()
    }
    rows |= {name: _shown(value) for name, value in found["settings"].items()}
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(escape(str(name)), escape(str(value)))
    out().print(table)


def _found(path: Path) -> dict[str, Any]:
    try:
        ours = read_metadata(path)
    except RequestError as error:
        foreign = read_foreign(path)
        if foreign is None:
            raise RequestError(
                f"{path} does not say how it was made.", "Editors and web sites often remove metadata."
            ) from error
        return {"tool": foreign.tool, "model": foreign.model, "request": foreign.fields, "settings": foreign.rest}
    data = asdict(ours)
    tool = f"kandinsky {data.pop('version')}"
    return {"tool": tool, "model": ours.model, "request": ours.request, "settings": ours.settings, "batch": ours.batch}


def _shown(value: object) -> object:
    """A value as one line: an input image by its file."""
    if isinstance(value, dict) and "sha256" in value:
        return value.get("path") or f"an image given in memory ({value['sha256'][:8]})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
