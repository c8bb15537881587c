"""The queue: one SQLite file, and functions of a connection to it.

Every change is a transaction that is on the disk before its function returns (WAL, synchronous=FULL), so a
kill at any moment loses nothing that was acknowledged. A running job is held by a lease: its worker renews
it, and a lease that runs out puts the job back.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import JsonValue

from kandinsky.core.errors import JobError, KandinskyError

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
APPLICATION_ID = 0x4B616E64  # "Kand"
BUSY_SECONDS = 30.0
LEASE_SECONDS = 60.0
CRASHES = 2
"""How many workers a job may have ended before it fails."""
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
)
"""What makes version i + 1 of the schema of version i."""


@dataclass(frozen=True)
class NewJob:
    """A request to be queued. Jobs of one `group` may be drawn in one batch; a `name` is unique in the store."""

    request: JsonValue
    group: str = ""
    name: str | None = None
    owner: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Job:
    """A job as it was when it was read. Times are in seconds since 1970."""

    id: int
    name: str | None
    owner: str
    priority: int
    group: str
    request: JsonValue
    state: State
    progress: JsonValue
    worker: str | None
    attempts: int
    crashes: int
    cancelling: bool
    result: JsonValue
    error: JsonValue
    created: float
    started: float | None
    ended: float | None


COLUMNS = (
    "id, name, owner, priority, group_key, request, state, progress, worker, attempts, crashes, cancelling, "
    "result, error, created, started, ended"
)


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
        with _named(path):
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
        with _transaction(db):
            # Another process may have done it meanwhile.
            (version,) = db.execute("PRAGMA user_version").fetchone()
            for script in MIGRATIONS[version:]:
                for statement in script.split(";"):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def check_integrity(db: sqlite3.Connection) -> None:
    """JobError when the file is damaged."""
    found = [row[0] for row in _rows(db, "PRAGMA integrity_check")]
    if found != ["ok"]:
        raise JobError(f"The store is damaged: {found[0]}.", "Take a backup, or begin anew.")


def enqueue(db: sqlite3.Connection, jobs: Iterable[NewJob], now: float | None = None) -> list[int]:
    """Queues all jobs or none; returns their ids, which rise in their order.

    Raises JobError for a name that is taken.
    """
    at = time.time() if now is None else now
    ids = []
    with _transaction(db):
        for job in jobs:
            values = (job.name, job.owner, job.priority, job.group, json.dumps(job.request, ensure_ascii=False), at)
            try:
                cursor = db.execute(
                    "INSERT INTO jobs (name, owner, priority, group_key, request, created) VALUES (?, ?, ?, ?, ?, ?)",
                    values,
                )
            except sqlite3.IntegrityError as error:
                raise JobError(f"There is a job {job.name!r} already.", "Give each job a name of its own.") from error
            assert cursor.lastrowid is not None
            ids.append(cursor.lastrowid)
    return ids


def claim(
    db: sqlite3.Connection, worker: str, count: int = 1, seconds: float = LEASE_SECONDS, now: float | None = None
) -> list[Job]:
    """Gives `worker` a lease of the next job and of up to `count` - 1 others of its group; none when none is queued.

    The next is that of the highest priority, of these the oldest. A job that has ended as many workers as it
    may with others beside it is given alone, so that the guilty one is found.
    """
    at = time.time() if now is None else now
    order = "ORDER BY priority DESC, id"
    with _transaction(db):
        first = db.execute(f"SELECT id, group_key, crashes FROM jobs WHERE state = 'queued' {order} LIMIT 1").fetchone()
        if first is None:
            return []
        ids = [first[0]]
        if first[2] < CRASHES:
            rest = db.execute(
                "SELECT id FROM jobs WHERE state = 'queued' AND group_key = ? AND crashes < ? AND id != ? "
                f"{order} LIMIT ?",
                (first[1], CRASHES, first[0], count - 1),
            )
            ids += [row[0] for row in rest]
        db.executemany(
            "UPDATE jobs SET state = 'running', worker = ?, lease_until = ?, together = ?, attempts = attempts + 1, "
            "started = ?, progress = NULL WHERE id = ?",
            [(worker, at + seconds, len(ids), at, one) for one in ids],
        )
        return [get(db, one) for one in ids]


def heartbeat(
    db: sqlite3.Connection,
    worker: str,
    progress: JsonValue = None,
    seconds: float = LEASE_SECONDS,
    now: float | None = None,
) -> tuple[set[int], set[int]]:
    """Renews the leases of `worker` and notes its progress; returns the ids it holds, and those to be cancelled."""
    at = time.time() if now is None else now
    with _transaction(db):
        rows = db.execute(
            "UPDATE jobs SET lease_until = ?, progress = ? WHERE worker = ? RETURNING id, cancelling",
            (at + seconds, json.dumps(progress), worker),
        ).fetchall()
    return {one for one, _ in rows}, {one for one, cancelling in rows if cancelling}


def finish(db: sqlite3.Connection, worker: str, results: "dict[int, JsonValue]", now: float | None = None) -> set[int]:
    """Marks jobs as done, together; returns those that were still the worker's, which alone are changed."""
    return _end(db, worker, "done", "result", results, now)


def fail(db: sqlite3.Connection, worker: str, errors: "dict[int, JsonValue]", now: float | None = None) -> set[int]:
    """Marks jobs as failed; returns those that were still the worker's, which alone are changed."""
    return _end(db, worker, "failed", "error", errors, now)


def _end(
    db: sqlite3.Connection,
    worker: str,
    state: State,
    column: Literal["result", "error"],
    values: "dict[int, JsonValue]",
    now: float | None,
) -> set[int]:
    at = time.time() if now is None else now
    ended = set()
    with _transaction(db):
        for one, value in values.items():
            cursor = db.execute(
                f"UPDATE jobs SET state = ?, {column} = ?, ended = ?, worker = NULL, lease_until = NULL, "
                "progress = NULL WHERE id = ? AND worker = ?",
                (state, json.dumps(value, ensure_ascii=False), at, one, worker),
            )
            if cursor.rowcount:
                ended.add(one)
    return ended


def cancel(db: sqlite3.Connection, ids: Iterable[int], now: float | None = None) -> None:
    """Cancels queued jobs at once, and asks for running ones: their worker stops them at its next step."""
    at = time.time() if now is None else now
    with _transaction(db):
        for one in ids:
            db.execute("UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state = 'queued'", (at, one))
            db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND state = 'running'", (one,))


def give_back(db: sqlite3.Connection, worker: str, *, crashed: bool = False, now: float | None = None) -> None:
    """Queues the jobs of a worker that stops again; with `crashed` it did not stop of its own accord."""
    at = time.time() if now is None else now
    with _transaction(db):
        _requeue(db, "worker = ?", worker, crashed, at)


def requeue_expired(db: sqlite3.Connection, now: float | None = None) -> None:
    """Queues the jobs again whose lease ran out, as after a crash of their worker."""
    at = time.time() if now is None else now
    with _transaction(db):
        _requeue(db, "lease_until < ?", at, True, at)


def requeue_all(db: sqlite3.Connection) -> None:
    """Queues all running jobs again: for whoever knows that no worker is left, such as after a power cut."""
    with _transaction(db):
        _requeue(db, "? AND state = 'running'", True, False, time.time())


def retry(db: sqlite3.Connection, state: Literal["failed", "cancelled"] = "failed") -> int:
    """Queues jobs of that state again as if they had never run; returns how many."""
    with _transaction(db):
        return db.execute(
            "UPDATE jobs SET state = 'queued', crashes = 0, error = NULL, ended = NULL, cancelling = 0 WHERE state = ?",
            (state,),
        ).rowcount


def reopen(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Queues jobs again that were done: their results are gone."""
    with _transaction(db):
        db.executemany(
            "UPDATE jobs SET state = 'queued', result = NULL, ended = NULL WHERE id = ? AND state = 'done'",
            [(one,) for one in ids],
        )


def _requeue(db: sqlite3.Connection, which: str, value: object, crashed: bool, at: float) -> None:
    """Takes the leases of jobs `which`: they are cancelled, failed or queued again."""
    cleared = "worker = NULL, lease_until = NULL, progress = NULL"
    db.execute(
        f"UPDATE jobs SET state = 'cancelled', ended = ?, {cleared} WHERE {which} AND state = 'running' AND cancelling",
        (at, value),
    )
    if crashed:
        message = json.dumps({"type": "crash", "message": f"It ended its worker {CRASHES} times or more."})
        db.execute(
            f"UPDATE jobs SET state = 'failed', error = ?, ended = ?, crashes = crashes + 1, {cleared} "
            f"WHERE {which} AND state = 'running' AND together = 1 AND crashes + 1 >= ?",
            (message, at, value, CRASHES),
        )
    db.execute(
        f"UPDATE jobs SET state = 'queued', crashes = crashes + ?, {cleared} WHERE {which} AND state = 'running'",
        (int(crashed), value),
    )


def get(db: sqlite3.Connection, job: int) -> Job:
    """The job with that id; JobError where there is none."""
    for row in _rows(db, f"SELECT {COLUMNS} FROM jobs WHERE id = ?", job):
        return _job(row)
    raise JobError(f"There is no job {job}.", "List the jobs to see their ids.")


def listed(
    db: sqlite3.Connection,
    state: State | None = None,
    owner: str | None = None,
    after: int = 0,
    limit: int | None = None,
) -> Iterator[Job]:
    """Jobs in the order of their ids, from the one behind id `after`."""
    given = [(f"{name} = ?", value) for name, value in (("state", state), ("owner", owner)) if value is not None]
    where = " AND ".join(["id > ?", *(text for text, _ in given)])
    found = [value for _, value in given]
    text = f"SELECT {COLUMNS} FROM jobs WHERE {where} ORDER BY id LIMIT ?"
    return map(_job, _rows(db, text, after, *found, -1 if limit is None else limit))


def counts(db: sqlite3.Connection) -> dict[State, int]:
    """How many jobs each state has."""
    found = dict(_rows(db, "SELECT state, count(*) FROM jobs GROUP BY state"))
    return {state: found.get(state, 0) for state in STATES}


def facts(db: sqlite3.Connection) -> dict[str, JsonValue]:
    """What `note` has written: what holds for all jobs, such as the model."""
    return {name: json.loads(value) for name, value in _rows(db, "SELECT name, value FROM facts ORDER BY name")}


def note(db: sqlite3.Connection, values: "dict[str, JsonValue]") -> None:
    """Writes facts, or replaces them."""
    rows = [(name, json.dumps(value, ensure_ascii=False, sort_keys=True)) for name, value in values.items()]
    with _transaction(db):
        db.executemany("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", rows)


def cancelled(db: sqlite3.Connection, worker: str) -> set[int]:
    """The jobs of a worker that it is asked to stop; a read alone, for every step."""
    return {row[0] for row in _rows(db, "SELECT id FROM jobs WHERE worker = ? AND cancelling", worker)}


def drop(db: sqlite3.Connection, worker: str, ids: Iterable[int], now: float | None = None) -> None:
    """Marks jobs that the worker has stopped as cancelled."""
    at = time.time() if now is None else now
    with _transaction(db):
        db.executemany(
            "UPDATE jobs SET state = 'cancelled', ended = ?, worker = NULL, lease_until = NULL, progress = NULL "
            "WHERE id = ? AND worker = ? AND cancelling",
            [(at, one, worker) for one in ids],
        )


def _rows(db: sqlite3.Connection, text: str, *values: object) -> Iterator[tuple[Any, ...]]:
    with _named():
        yield from db.execute(text, values)


def _job(row: Sequence[Any]) -> Job:
    decoded = list(row)
    for place in (5, 7, 12, 13):
        decoded[place] = None if row[place] is None else json.loads(row[place])
    decoded[11] = bool(row[11])
    return Job(*decoded)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Takes the write lock; what is inside is on the disk as a whole at the end, or not at all."""
    with _named():
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


@contextmanager
def _named(path: Path | None = None) -> Iterator[None]:
    """Words for what SQLite refuses."""
    try:
        yield
    except KandinskyError:
        raise
    except sqlite3.OperationalError as error:
        hint = "Another process may hold it, or the disk may be full: try again."
        raise JobError(f"{path or 'The store'} cannot be written ({error}).", hint) from error
    except sqlite3.DatabaseError as error:
        raise JobError(f"{path or 'The store'} is no store of jobs ({error}).", "Give another file.") from error
