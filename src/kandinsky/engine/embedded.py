"""The checkpoint that ships inside the package."""

from pathlib import Path

from kandinsky.core.errors import CheckpointError

EMBEDDED = "emoji"
"""The name by which `load` and metadata know it."""


def embedded_folder() -> Path:
    """Where the embedded checkpoint lies; raises CheckpointError for a package that was built without it."""
    folder = Path(__file__).parent.parent / "assets" / EMBEDDED
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"This package holds no embedded checkpoint ({folder} has no model_index.json).",
            "Install a released wheel, or give the folder or Hub id of a checkpoint.",
        )
    return folder
