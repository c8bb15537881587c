"""Writing files and folders so that a reader sees the old content or the new, never a half."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kandinsky.core.errors import OutputError


def local(path: str | Path) -> Path:
    """A path with `~` as the home folder, where there is one of that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: Path) -> bool:
    """Whether a file or folder is there; what cannot be a name on this system is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_writable(path: str | Path) -> Path:
    """Makes sure that a file can be created at `path`, before any expensive work is done for it.

    Returns the path. Raises OutputError when the folder is missing or refuses new files, or when `path` is a folder.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise OutputError(f"{target} is a folder.", "Give the name of a file in it.")
    if not folder.is_dir():
        raise OutputError(f"There is no folder {folder}.", "Create it first, or write somewhere else.")
    try:
        # Permission bits do not tell the truth on network drives or for the superuser, so a file is really made.
        handle, probe = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".probe", dir=folder)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{folder} cannot be written to ({reason}).", "Choose another folder.") from error
    return target


class ExistsError(OutputError):
    """Something is at the place that was to be new."""


@contextmanager
def whole_file(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Gives a hidden file to write, which becomes `path` when all of it is on the disk.

    Raises OutputError when the disk is full or the folder refuses, and unless it may `replace` what is there
    ExistsError when something is, also when it came in between; nothing is left behind then.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        sync(temporary)
        if not replace:
            _reserve(target)
        os.replace(temporary, target)
        temporary = None
        sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        # Also on Ctrl-C, which is no OSError.
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _reserve(target: Path) -> None:
    """Makes an empty file, which only one of several programs can."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        raise ExistsError(f"{target} exists already.", "Choose another name, or remove it.") from error


def write_atomically(path: str | Path, data: bytes | Callable[[IO[bytes]], object], *, replace: bool = True) -> Path:
    """Puts `data`, or what `data` writes, at `path` in one step; see `whole_file`."""
    with whole_file(path, replace=replace) as temporary, temporary.open("wb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
    return Path(path)


@contextmanager
def whole_folder(target: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a hidden folder to write in, which becomes `target` when all of it is on the disk.

    `target` must be new or empty at the end too, unless it is to `replace` what is there: that is set aside
    then, put back when the last step fails or is interrupted, and removed after it. A link stays a link.
    Raises OutputError when something is in the way or the disk refuses; nothing is left behind then.
    """
    aside: Path | None = None
    target = Path(os.path.realpath(target))
    try:
        if not target.name or (not replace and target == Path(os.path.realpath("."))):
            raise OutputError(f"{target} exists already.", "Give a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = _beside(target, "part")
        yield aside
        aside.chmod(0o777 & ~_umask())
        for path in (*sorted(aside.rglob("*")), aside):
            sync(path)
        if replace and target.exists():
            _replace(target, aside)
        else:
            if target.exists():
                target.rmdir()
            aside.rename(target)
        sync(target.parent)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _replace(target: Path, new: Path) -> None:
    """Puts the folder `new` in the place of `target`, or leaves `target` as it was."""
    place = _beside(target, "old")
    old = place / target.name
    try:
        target.rename(old)
        new.rename(target)
    finally:
        # Asked of the disk: an interruption may come after a step that is done.
        if new.exists() and old.exists() and not target.exists():
            old.rename(target)
        if not new.exists() or not old.exists():
            shutil.rmtree(place, ignore_errors=True)


def _beside(target: Path, kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=f".{kind}", dir=target.parent))


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
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "Free some disk space, or choose another place for it." if full else "Choose another place for it."
    return OutputError(f"{target} cannot be written ({error.strerror or error}).", hint)


def _umask() -> int:
    # mkstemp makes private files; the only way to read the umask is to set it.
    current = os.umask(0)
    os.umask(current)
    return current
