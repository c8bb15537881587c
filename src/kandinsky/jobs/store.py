"""The queue: one SQLite file, and functions of a connection to it.

Every change is a transaction that is on the disk before its function returns (WAL, synchronous=FULL), so a
kill at any moment loses nothing that was acknowledged. A running job is held by a lease: its worker renews
it, and a lease that runs out puts the job back.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from pydantic import JsonValue

from kandinsky.core.errors import JobError
from kandinsky.jobs.schema import check_integrity, open_store, rows, transaction

__all__ = ["check_integrity", "open_store"]

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
LEASE_SECONDS = 60.0
CRASHES = 2
"""How many workers a job may have ended before it fails."""


@dataclass(frozen=True)
class NewJob:
    """A request to be queued. Jobs of one `group` may be drawn in one batch; a `name` is unique in the store; `text`
    is what it is found by."""

    request: JsonValue
    group: str = ""
    name: str | None = None
    owner: str = ""
    priority: int = 0
    text: str = ""


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
    text: str
    favourite: bool


COLUMNS = (
    "id, name, owner, priority, group_key, request, state, progress, worker, attempts, crashes, cancelling, "
    "result, error, created, started, ended, text, favourite"
)


def enqueue(db: sqlite3.Connection, jobs: Iterable[NewJob], now: float | None = None) -> list[int]:
    """Queues all jobs or none; returns their ids, which rise in their order.

    Raises JobError for a name that is taken.
    """
    at = time.time() if now is None else now
    ids = []
    with transaction(db):
        owners = set[str]()
        for job in jobs:
            if job.owner not in owners:
                owners.add(job.owner)
                _join(db, job.owner)
            request = json.dumps(job.request, ensure_ascii=False)
            values = (job.name, job.owner, job.priority, job.group, request, at, job.text.casefold())
            try:
                cursor = db.execute(
                    "INSERT INTO jobs (name, owner, priority, group_key, request, created, text) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            except sqlite3.IntegrityError as error:
                raise JobError(f"There is a job {job.name!r} already.", "Give each job a name of its own.") from error
            assert cursor.lastrowid is not None
            ids.append(cursor.lastrowid)
            db.execute("UPDATE jobs SET turn = id WHERE id = ?", (cursor.lastrowid,))
    return ids


def _join(db: sqlite3.Connection, owner: str) -> None:
    """Puts an owner who had nothing to do beside the one who was served least: nobody saves up turns."""
    busy = "SELECT 1 FROM jobs WHERE state IN ('queued', 'running') AND jobs.owner = "
    if db.execute(f"{busy} ? LIMIT 1", (owner,)).fetchone() is None:
        least = f"(SELECT min(served) FROM owners WHERE EXISTS ({busy} owners.owner))"
        db.execute(
            f"INSERT INTO owners VALUES (?, coalesce({least}, 0)) "
            f"ON CONFLICT (owner) DO UPDATE SET served = max(served, coalesce({least}, 0))",
            (owner,),
        )


def claim(
    db: sqlite3.Connection, worker: str, count: int = 1, seconds: float = LEASE_SECONDS, now: float | None = None
) -> list[Job]:
    """Gives `worker` a lease of the next job and of up to `count` - 1 others of its group; none when none is queued.

    The next is that of the highest priority, of these that of the owner who was served least, of these the oldest,
    unless `reorder` said otherwise.
    A job that has ended as many workers as it may with others beside it is given alone, so that the guilty one is
    found.
    """
    at = time.time() if now is None else now
    order = "ORDER BY priority DESC, turn"
    with transaction(db):
        first = db.execute(
            "SELECT id, group_key, crashes, min(turn) FROM jobs LEFT JOIN owners USING (owner) WHERE state = 'queued' "
            "AND priority = (SELECT max(priority) FROM jobs WHERE state = 'queued') "
            "GROUP BY owner ORDER BY coalesce(served, 0), min(turn) LIMIT 1"
        ).fetchone()
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
        db.executemany(
            "UPDATE owners SET served = served + 1 WHERE owner = (SELECT owner FROM jobs WHERE id = ?)",
            [(one,) for one in ids],
        )
        return [get(db, one) for one in ids]


def take(db: sqlite3.Connection, worker: str, ids: Iterable[int], seconds: float = LEASE_SECONDS) -> list[Job]:
    """Gives `worker` a lease of those of the jobs that are queued: for whoever has drawn them elsewhere."""
    at = time.time()
    with transaction(db):
        taken = []
        for one in ids:
            cursor = db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, lease_until = ?, together = 1, started = ?, "
                "attempts = attempts + 1, progress = NULL WHERE id = ? AND state = 'queued'",
                (worker, at + seconds, at, one),
            )
            if cursor.rowcount:
                taken.append(get(db, one))
    return taken


def heartbeat(
    db: sqlite3.Connection,
    worker: str,
    progress: JsonValue = None,
    seconds: float = LEASE_SECONDS,
    now: float | None = None,
) -> tuple[set[int], set[int]]:
    """Renews the leases of `worker` and notes its progress; returns the ids it holds, and those to be cancelled."""
    at = time.time() if now is None else now
    with transaction(db):
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
    with transaction(db):
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
    with transaction(db):
        for one in ids:
            db.execute("UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state = 'queued'", (at, one))
            db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ? AND state = 'running'", (one,))


def give_back(db: sqlite3.Connection, worker: str, *, crashed: bool = False, now: float | None = None) -> None:
    """Queues the jobs of a worker that stops again; with `crashed` it did not stop of its own accord."""
    at = time.time() if now is None else now
    with transaction(db):
        _requeue(db, "worker = ?", worker, crashed, at)


def requeue_expired(db: sqlite3.Connection, now: float | None = None) -> None:
    """Queues the jobs again whose lease ran out, as after a crash of their worker."""
    at = time.time() if now is None else now
    with transaction(db):
        _requeue(db, "lease_until < ?", at, True, at)


def requeue_all(db: sqlite3.Connection) -> None:
    """Queues all running jobs again: for whoever knows that no worker is left, such as after a power cut."""
    with transaction(db):
        _requeue(db, "? AND state = 'running'", True, False, time.time())


def retry(db: sqlite3.Connection, state: Literal["failed", "cancelled"] = "failed") -> int:
    """Queues jobs of that state again as if they had never run; returns how many."""
    with transaction(db):
        return db.execute(
            "UPDATE jobs SET state = 'queued', crashes = 0, error = NULL, ended = NULL, cancelling = 0 WHERE state = ?",
            (state,),
        ).rowcount


def reopen(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Queues jobs again that were done: their results are gone."""
    with transaction(db):
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
    for row in rows(db, f"SELECT {COLUMNS} FROM jobs WHERE id = ?", job):
        return _job(row)
    raise JobError(f"There is no job {job}.", "List the jobs to see their ids.")


def named(db: sqlite3.Connection, name: str) -> Job:
    """The job with that name; JobError where there is none."""
    for row in rows(db, f"SELECT {COLUMNS} FROM jobs WHERE name = ?", name):
        return _job(row)
    raise JobError(f"There is no job {name!r}.", "List the jobs to see their names.")


def found(
    db: sqlite3.Connection,
    owner: str | None = None,
    states: Sequence[State] = STATES,
    text: str = "",
    favourite: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> list[Job]:
    """Jobs whose text holds `text`, whatever the case, the newest first, from the one before id `before`."""
    given = [f"state IN ({', '.join('?' * len(states))})"]
    values: list[object] = [*states]
    for condition, value in (("owner = ?", owner), ("id < ?", before)):
        if value is not None:
            given.append(condition)
            values.append(value)
    if text:
        given.append("instr(text, ?) > 0")
        values.append(text.casefold())
    if favourite:
        given.append("favourite")
    text_ = f"SELECT {COLUMNS} FROM jobs WHERE {' AND '.join(given)} ORDER BY id DESC LIMIT ?"
    return list(map(_job, rows(db, text_, *values, limit)))


def place(db: sqlite3.Connection, job: int) -> int:
    """How many queued jobs are before this one, by priority and turn; fairness between owners may let it pass them."""
    counted = rows(
        db,
        "SELECT count(*) FROM jobs, (SELECT turn, priority FROM jobs WHERE id = ?) AS own WHERE state = 'queued' AND "
        "(jobs.priority > own.priority OR (jobs.priority = own.priority AND jobs.turn < own.turn))",
        job,
    )
    return int(next(counted)[0])


def reorder(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Puts those of the jobs that are queued in this order, in the places that they have: nobody else's turn changes.

    Their priorities go with the places.
    """
    with transaction(db):
        places = {}
        for one in dict.fromkeys(ids):
            text = "SELECT priority, turn FROM jobs WHERE id = ? AND state = 'queued'"
            if (row := db.execute(text, (one,)).fetchone()) is not None:
                places[one] = row
        order = sorted(places.values(), key=lambda row: (-row[0], row[1]))
        db.executemany(
            "UPDATE jobs SET priority = ?, turn = ? WHERE id = ?",
            [(*row, one) for one, row in zip(places, order, strict=True)],
        )


def waiting(db: sqlite3.Connection, owner: str, limit: int) -> list[Job]:
    """The owner's jobs that are running, then those that are queued, in their order."""
    text = (
        f"SELECT {COLUMNS} FROM jobs WHERE owner = ? AND state IN ('running', 'queued') "
        "ORDER BY state = 'queued', priority DESC, turn LIMIT ?"
    )
    return list(map(_job, rows(db, text, owner, limit)))


def change(db: sqlite3.Connection, job: int, *, priority: int | None = None, favourite: bool | None = None) -> None:
    """Sets the priority of a queued job, or marks a job as a favourite."""
    with transaction(db):
        if priority is not None:
            db.execute("UPDATE jobs SET priority = ? WHERE id = ? AND state = 'queued'", (priority, job))
        if favourite is not None:
            db.execute("UPDATE jobs SET favourite = ? WHERE id = ?", (favourite, job))


def forget(db: sqlite3.Connection, ids: Iterable[int]) -> list[int]:
    """Removes jobs that have ended; returns those that it removed."""
    with transaction(db):
        return [
            one
            for one in ids
            if db.execute("DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (one,)).rowcount
        ]


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
    return map(_job, rows(db, text, after, *found, -1 if limit is None else limit))


def requests(db: sqlite3.Connection, states: Sequence[State], holding: str) -> Iterator[str]:
    """The requests of jobs of these states that hold a text, as they are written."""
    text = f"SELECT request FROM jobs WHERE state IN ({', '.join('?' * len(states))}) AND instr(request, ?)"
    return (found[0] for found in rows(db, text, *states, holding))


def counts(db: sqlite3.Connection) -> dict[State, int]:
    """How many jobs each state has."""
    found = dict(rows(db, "SELECT state, count(*) FROM jobs GROUP BY state"))
    return {state: found.get(state, 0) for state in STATES}


def facts(db: sqlite3.Connection) -> dict[str, JsonValue]:
    """What `note` has written: what holds for all jobs, such as the model."""
    return {name: json.loads(value) for name, value in rows(db, "SELECT name, value FROM facts ORDER BY name")}


def note(db: sqlite3.Connection, values: "dict[str, JsonValue]") -> None:
    """Writes facts, or replaces them."""
    rows = [(name, json.dumps(value, ensure_ascii=False, sort_keys=True)) for name, value in values.items()]
    with transaction(db):
        db.executemany("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", rows)


def cancelled(db: sqlite3.Connection, worker: str) -> set[int]:
    """The jobs of a worker that it is asked to stop; a read alone, for every step."""
    return {row[0] for row in rows(db, "SELECT id FROM jobs WHERE worker = ? AND cancelling", worker)}


def drop(db: sqlite3.Connection, worker: str, ids: Iterable[int], now: float | None = None) -> None:
    """Marks jobs that the worker has stopped as cancelled."""
    at = time.time() if now is None else now
    with transaction(db):
        db.executemany(
            "UPDATE jobs SET state = 'cancelled', ended = ?, worker = NULL, lease_until = NULL, progress = NULL "
            "WHERE id = ? AND worker = ? AND cancelling",
            [(at, one, worker) for one in ids],
        )


def _job(row: Sequence[Any]) -> Job:
    decoded = list(row)
    for place in (5, 7, 12, 13):
        decoded[place] = None if row[place] is None else json.loads(row[place])
    decoded[11], decoded[18] = bool(row[11]), bool(row[18])
    return Job(*decoded)
