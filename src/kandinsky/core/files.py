"""Writing files and folders so that a reader sees the old content or the new, never a half."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

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


def write_atomically(path: str | Path, data: bytes | Callable[[IO[bytes]], object]) -> Path:
    """Puts `data`, or what `data` writes, at `path` in one step: temporary file beside it, fsync, rename.

    Raises OutputError when the disk is full or the folder refuses; nothing is left behind then.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        # Also on Ctrl-C, which is no OSError.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a hidden folder to write in, which takes the place of `target` when all of it is on the disk.

    A folder of that name is whole at any time. Raises OutputError when the disk refuses; nothing is left
    behind then.
    """
    aside, old = (target.with_name(f".{target.name}.{kind}") for kind in ("part", "old"))
    try:
        if old.exists() and not target.exists():  # a stop between the two renames below
            old.rename(target)
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in (*sorted(aside.rglob("*")), aside):
            sync(path)
        if target.exists():
            target.rename(old)
        aside.rename(target)
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder, are on the disk."""
    if not path.is_dir():
        _fsync(path, os.O_RDWR)
        return
    with suppress(OSError):  # systems that cannot open a folder (Windows) have no such step
        _fsync(path, os.O_RDONLY)


def _fsync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{target} cannot be written ({error.strerror or error}).",
        "Free some disk space, or choose another place for it.",
    )


def _umask() -> int:
    # mkstemp makes private files; the only way to read the umask is to set it.
    current = os.umask(0)
    os.umask(current)
    return current
