"""Small JSON files, and the names of those that every folder has."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kandinsky.core.errors import CheckpointError, OutputError
from kandinsky.core.files import write_atomically
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, read_bytes

Json = Mapping[str, object]
"""A JSON object, to read."""
INDEX = "model_index.json"
"""The file at the root of a folder in diffusers layout."""
OWN_SETTINGS = "kandinsky.json"
"""Our own file in a folder in diffusers layout, for defaults of requests."""
OWN_ADAPTERS = "lora"
"""The subfolder with a model's own adapters, `<name>.safetensors` each."""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises CheckpointError for a file that is missing, damaged or something else."""
    try:
        value = parse_json(read_bytes(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.", "Check the path, or download the folder again.") from error
    except (OSError, UnsoundTextError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", "It is damaged; download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object.", "Download it again.")
    return value


def write_json(path: Path, value: Json) -> None:
    """Writes a JSON object, indented, whole or not at all; raises OutputError when it cannot."""
    make_folder(path.parent)
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def components_of(model_index: Json) -> dict[str, str]:
    """The components of a model index that have a class, each with its name."""
    return {
        name: str(value[1])
        for name, value in model_index.items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and value[1] is not None
    }


def make_folder(folder: Path) -> None:
    """Makes `folder` and those above it; raises OutputError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made ({error.strerror}).", "Choose another place.") from error
