"""The store as the server uses it: what is left over, what is known, what is too much."""

import sqlite3
from collections.abc import Sequence

from kandinsky.core.errors import JobError
from kandinsky.core.prompts import prompt_to_json
from kandinsky.core.requests import Request
from kandinsky.jobs import store
from kandinsky.jobs.store import NewJob
from kandinsky.server.errors import ApiError

NOBODY = " "
"""The owner of images that the server tries itself with; no token has such a name."""


def left_running(db: sqlite3.Connection) -> None:
    """What is said to run was left by a server that was killed: nobody else writes here.

    So is an image that it wanted to begin with, which nobody waits for: such jobs are of no owner.
    """
    store.requeue_all(db)
    ids = [job.id for job in store.found(db, NOBODY, ("queued", "failed", "cancelled"), limit=1000)]
    store.cancel(db, ids)
    store.forget(db, ids)


def _unknown(db: sqlite3.Connection, jobs: Sequence[NewJob], again: bool) -> list[NewJob]:
    """Those of the jobs that the store does not have; ApiError where it has one of that name that asks for another."""
    found = []
    for job in jobs:
        try:
            known = store.named(db, job.name or "")
        except JobError:
            found.append(job)
            continue
        assert isinstance(known.request, dict)
        assert isinstance(job.request, dict)
        if known.request.get("asked", job.request["asked"]) != job.request["asked"]:
            message = "This idempotency key came with another request."
            raise ApiError(422, message, "idempotency-key", "idempotency_key_reused")
        if again and known.state == "cancelled" and store.forget(db, [known.id]):
            found.append(job)
    return found


def enqueued(
    db: sqlite3.Connection, jobs: Sequence[NewJob], most: int, *, known: bool, again: bool
) -> tuple[list[NewJob], list[int]]:
    """Queues jobs, of which some may be `known`; returns those that it queued, and their ids. ApiError if too many."""
    new = _unknown(db, jobs, again) if known else list(jobs)
    queued = store.counts(db)["queued"]
    if queued + len(new) > most:
        raise full(queued)
    return new, store.enqueue(db, new)


def full(queued: int) -> ApiError:
    """What is said where more is asked than the queue takes."""
    message = f"{queued} jobs are queued, and so many more are not taken."
    return ApiError(429, message, code="queue_full", headers={"retry-after": "30"})


def stopping() -> ApiError:
    """What is said by a server that is to end."""
    return ApiError(503, "The server is stopping; ask again.", code="stopping", headers={"retry-after": "5"})


def text_of(request: Request, most: int = 4000) -> str:
    """What a job is found by: its prompt."""
    said = [prompt_to_json(one) for one in request.prompts]
    return " ".join(one if isinstance(one, str) else str(one) for one in said)[:most]
