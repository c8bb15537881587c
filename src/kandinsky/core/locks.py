"""The right to write into a folder, which one process holds at a time and loses when it ends."""

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kandinsky.core.errors import OutputError

LOCK = ".lock"
"""The file, in the folder, that the lock lies on. It is left there, since removing it would be a race."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the right to write into `folder`; the system takes it back when the process ends, however it does.

    The lock is SQLite's own, which holds on every system. Raises OutputError when another process, or another
    part of this one, holds it, or when the folder cannot be written.
    """
    try:
        lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
        with contextlib.closing(lock):
            lock.execute("BEGIN EXCLUSIVE")
            yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise OutputError(f"Another process writes into {folder}.", "Wait for it, or stop it.") from error
        raise OutputError(f"{folder} cannot be written ({error}).", "Choose another place for it.") from error
    except sqlite3.DatabaseError as error:
        raise OutputError(
            f"{folder / LOCK} is no lock of ours ({error}).", "Remove it, or give another folder."
        ) from error
