"""Writing files so that a reader sees the old content or the new, never a half."""

import os
import tempfile
from pathlib import Path

from kandinsky.core.errors import OutputError


def check_writable(path: str | Path) -> Path:
    """Makes sure that a file can be created at `path`, before any expensive work is done for it.

    Returns the path. Raises OutputError when the folder is missing or refuses new files, or when `path` is a
    folder.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise OutputError(f"{target} is a folder.", "Give the name of a file in it.")
    if not folder.is_dir():
        raise OutputError(f"There is no folder {folder}.", "Create it first, or write somewhere else.")
    try:
        # Permission bits do not tell the truth on network drives or for the superuser, so a file is really
        # made.
        handle, probe = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".probe", dir=folder)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{folder} cannot be written to ({reason}).", "Choose another folder.") from error
    return target


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Puts `data` at `path` in one step: temporary file in the same folder, fsync, rename.

    Raises OutputError when the disk is full or the folder refuses; nothing is left behind then.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{target} cannot be written ({reason}).", "Choose another place for it."
        ) from error
    finally:
        # Also on Ctrl-C, which is no OSError.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def _umask() -> int:
    # mkstemp makes private files; the only way to read the umask is to set it.
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder; systems that cannot open a folder (Windows) have no such step.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
