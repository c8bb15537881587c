"""The file of the queue: its schema, how it is opened, and how it is changed."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kandinsky.core.errors import JobError, KandinskyError

APPLICATION_ID = 0x4B616E64  # "Kand"
BUSY_SECONDS = 30.0
MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        owner TEXT NOT NULL,
        priority INTEGER NOT NULL,
        group_key TEXT NOT NULL,
        request TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
        progress TEXT,
        worker TEXT,
        lease_until REAL,
        together INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        cancelling INTEGER NOT NULL DEFAULT 0,
        result TEXT,
        error TEXT,
        created REAL NOT NULL,
        started REAL,
        ended REAL,
        CHECK ((state = 'running') = (worker IS NOT NULL)),
        CHECK ((worker IS NULL) = (lease_until IS NULL))
    );
    CREATE INDEX jobs_queued ON jobs (priority DESC, id) WHERE state = 'queued';
    CREATE INDEX jobs_grouped ON jobs (group_key, priority DESC, id) WHERE state = 'queued';
    CREATE INDEX jobs_running ON jobs (lease_until) WHERE state = 'running';
    CREATE INDEX jobs_owner ON jobs (owner, id);
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    """,
    """
    ALTER TABLE jobs ADD COLUMN text TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN favourite INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE owners (owner TEXT PRIMARY KEY, served INTEGER NOT NULL);
    CREATE INDEX jobs_shared ON jobs (priority, owner, id) WHERE state = 'queued';
    """,
    """
    ALTER TABLE jobs ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET turn = id;
    DROP INDEX jobs_queued;
    DROP INDEX jobs_grouped;
    DROP INDEX jobs_shared;
    CREATE INDEX jobs_queued ON jobs (priority DESC, turn) WHERE state = 'queued';
    CREATE INDEX jobs_grouped ON jobs (group_key, priority DESC, turn) WHERE state = 'queued';
    CREATE INDEX jobs_shared ON jobs (priority, owner, turn) WHERE state = 'queued';
    """,
)
"""What makes version i + 1 of the schema of version i."""


def open_store(path: str | Path) -> sqlite3.Connection:
    """A connection to the store at `path`, which is made, or brought to this version of the schema.

    A connection belongs to one thread; several processes and threads may each have their own. Raises JobError
    when the file is no such store, is of a newer version, is damaged, or lies on a disk that cannot hold it.
    """
    path = Path(path)
    try:
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise JobError(f"{path} cannot be opened ({error}).", "Give a file in a folder that can be written.") from error
    try:
        with refusals(path):
            _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version or application):
        raise JobError(f"{path} is a database of another program.", "Give another file.")
    if version > len(MIGRATIONS):
        raise JobError(
            f"{path} has version {version} of the schema, and this library knows up to {len(MIGRATIONS)}.",
            "Use the library that made it, or a newer one.",
        )
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JobError(
            f"{path} lies on a file system that cannot keep a write-ahead log (mode {mode!r}).",
            "Put it on a local disk.",
        )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    if version < len(MIGRATIONS):
        with transaction(db):
            # Another process may have done it meanwhile.
            (version,) = db.execute("PRAGMA user_version").fetchone()
            for script in MIGRATIONS[version:]:
                for statement in script.split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def check_integrity(db: sqlite3.Connection) -> None:
    """JobError when the file is damaged."""
    found = [row[0] for row in rows(db, "PRAGMA integrity_check")]
    if found != ["ok"]:
        raise JobError(f"The store is damaged: {found[0]}.", "Take a backup, or begin anew.")


def rows(db: sqlite3.Connection, text: str, *values: object) -> Iterator[tuple[Any, ...]]:
    """What a query finds."""
    with refusals():
        yield from db.execute(text, values)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Takes the write lock; what is inside is on the disk as a whole at the end, or not at all."""
    with refusals():
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


@contextmanager
def refusals(path: Path | None = None) -> Iterator[None]:
    """Words for what SQLite refuses."""
    try:
        yield
    except KandinskyError:
        raise
    except sqlite3.OperationalError as error:
        hint = "Another process may hold it, or the disk may be full: try again."
        raise JobError(f"{path or 'The store'} cannot be written ({error}).", hint) from error
    except sqlite3.DatabaseError as error:
        raise JobError(f"{path or 'The store'} is not a store of jobs ({error}).", "Give another file.") from error
