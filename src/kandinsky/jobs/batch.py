"""A list of requests and a folder of images: whatever happens in between, each row is drawn exactly once."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import JsonValue

from kandinsky.core.errors import JobError, OutputError, RequestError
from kandinsky.core.events import numbered
from kandinsky.core.files import write_atomically
from kandinsky.core.locks import LOCK, only_writer
from kandinsky.core.metadata import FORMATS, library_version
from kandinsky.jobs import store, supervisor
from kandinsky.jobs.drawing import job_request
from kandinsky.jobs.places import open_place
from kandinsky.jobs.rows import Row, RowError, identity, request_of
from kandinsky.jobs.shards import Shards, asked, files_of
from kandinsky.jobs.store import Job, NewJob
from kandinsky.jobs.worker import WorkerOptions
from kandinsky.tasks.generate import batch_key

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline

STORE = "jobs.db"
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Plan:
    """What a list asks of a model: a job a row, in their order, and how many images and batches these make."""

    jobs: list[NewJob]
    images: int
    batches: int


@dataclass(frozen=True)
class Settings:
    """What all rows of a folder share: arguments of `kandinsky.load`, how many images are denoised together,
    the format of files, and how many rows a shard holds (0: files of their own)."""

    load: dict[str, JsonValue]
    model: str
    batch_size: int
    suffix: str = ".png"
    shards: int = 0

    def facts(self) -> dict[str, JsonValue]:
        """What must not change from one run to the next: another value would give other images or files."""
        # Where it runs and what is in memory shape no pixel that is promised.
        kept: dict[str, JsonValue] = {
            name: value for name, value in self.load.items() if name not in ("device", "offload", "prompt_cache")
        }
        return {
            "model": self.model,
            "settings": kept,
            "batch_size": self.batch_size,
            "format": self.suffix,
            "shards": self.shards,
            "version": library_version(),
        }


def plan(rows: Sequence[Row], pipe: "Pipeline", settings: Settings, given: Mapping[str, object], seed: int = 0) -> Plan:
    """Checks every row against the model, and puts those into batches that can be drawn together.

    The fields `given` are what a row does not say; row i (from 0) without a seed has `seed` + i. Batches are
    fixed here, so that a run that was stopped draws the same ones again. `pipe` needs no weights. Raises
    RowError that names every row that cannot be drawn.
    """
    names: dict[str, int] = {}
    keys: dict[object, list[int]] = {}
    jobs: list[tuple[str, int, dict[str, JsonValue]]] = []
    wrong: list[str] = []
    for place, row in enumerate(rows):
        try:
            name = identity(row, f"{row.line:06d}")
            if names.setdefault(name.casefold(), row.line) != row.line:
                raise RequestError(f"The id {name!r} is that of line {names[name.casefold()]} too.")
            suffix = Path(str(row.values["output"])).suffix.lower() if "output" in row.values else settings.suffix
            resolved = pipe.resolve(request_of(row, {"seed": seed + place, **given}))
        except RequestError as error:
            wrong.append(f"line {row.line}: {error}")
            continue
        size = resolved.request.size
        outputs = [Path(name + suffix)] if size == 1 else [numbered(Path(name + suffix), i) for i in range(size)]
        keys.setdefault(batch_key(resolved), []).append(len(jobs))
        jobs.append((name, size, job_request(resolved.request, [str(one) for one in outputs], row.base.resolve())))
    if wrong:
        raise RowError(wrong, len(rows))
    groups: dict[int, str] = {}
    for places in keys.values():
        filled = settings.batch_size
        for one in places:
            if filled + jobs[one][1] > settings.batch_size:
                filled, group = 0, f"{jobs[one][0]}"
            groups[one] = group
            filled += jobs[one][1]
    made = [NewJob(request, groups[place], name) for place, (name, _, request) in enumerate(jobs)]
    return Plan(made, sum(size for _, size, _ in jobs), len(set(groups.values())))


Draw: TypeAlias = "Callable[[Batch, supervisor.Listener], None]"
"""Draws what is queued in a batch and tells what happens."""


class Batch:
    """A list on its way: its store and manifest in `folder`, its images in `place`. Made by `open_batch`."""

    def __init__(self, folder: Path, out: str, db: sqlite3.Connection, settings: Settings) -> None:
        self.folder, self.out, self.db, self.settings = folder, out, db, settings
        self.place = open_place(out)
        self.shards = Shards(self.place, db, settings.shards) if settings.shards else None

    def add(self, jobs: Sequence[NewJob]) -> int:
        """Queues the rows that the store does not hold yet; returns how many it held.

        Raises JobError when a row differs from the one of its id, or one that the store holds is not given.
        """
        known = {job.name: job for job in store.listed(self.db)}
        for job in jobs:
            if (held := known.get(job.name)) is not None and asked(held.request) != asked(job.request):
                raise JobError(
                    f"The row {job.name!r} differs from the one that {self.folder} was begun with.",
                    "Give the same list, or another folder.",
                )
        if missing := set(known) - {job.name for job in jobs}:
            raise JobError(
                f"{self.folder} was begun with a row {sorted(map(str, missing))[0]!r}, which the list does not hold.",
                "Give the same list, perhaps with more rows, or another folder.",
            )
        store.enqueue(self.db, [job for job in jobs if job.name not in known])
        return len(known)

    def reopen_lost(self) -> int:
        """Queues rows again whose files are gone, with all of their batch; returns how many were gone."""
        done, there = list(store.listed(self.db, "done")), self.place.names()
        lost = [job.group for job in done if not self._is_there(job, there)]
        store.reopen(self.db, [job.id for job in done if job.group in set(lost)])
        return len(lost)

    def _is_there(self, job: Job, there: set[str]) -> bool:
        packed = self.shards is not None and self.shards.of(job.id) in there
        return packed or set(files_of(job)) <= there

    def run(self, draw: Draw, on_message: supervisor.Listener) -> None:
        """Draws what is queued, by `draw`.

        The manifest says afterwards what became of each row, also when this is interrupted.
        """
        hear = on_message if self.shards is None else self.shards.packing(on_message)
        try:
            if store.counts(self.db)["queued"]:
                draw(self, hear)
            if self.shards is not None:
                self.shards.pack_loose()
        finally:
            self.write_manifest()

    def write_manifest(self) -> None:
        """Writes what became of each row as JSON lines, in their order."""
        lines = []
        for job in store.listed(self.db):
            said: dict[str, JsonValue] = {"id": job.name, "state": job.state, "prompt": _prompt(job)}
            if job.state == "done":
                said |= {"files": job.result, **({"shard": self.shards.of(job.id)} if self.shards else {})}
            if job.state == "failed":
                said["error"] = job.error
            lines.append(json.dumps(said, ensure_ascii=False) + "\n")
        write_atomically(self.folder / MANIFEST, "".join(lines).encode())


def by_processes(workers: Sequence[Mapping[str, JsonValue]]) -> Draw:
    """A `Draw` by processes of this machine; `workers` are what each one's arguments of `load` have of its own."""

    def draw(batch: Batch, on_message: supervisor.Listener) -> None:
        options = [
            WorkerOptions(
                path=str(batch.folder / STORE),
                folder=batch.out,
                load={**batch.settings.load, **own},
                claim=batch.settings.batch_size,
                batch_size=batch.settings.batch_size,
            )
            for own in workers
        ]
        supervisor.run(options, on_message)

    return draw


@contextmanager
def open_batch(folder: Path, settings: Settings, out: str | None = None) -> Iterator[Batch]:
    """Opens a folder for a list, which nobody else may write into meanwhile; images go there too, or to `out`, an
    address of fsspec.

    Raises OutputError when it holds other files or is in use, JobError when it was begun with another model or
    other settings.
    """
    if settings.suffix not in FORMATS:
        raise OutputError(f"{settings.suffix} is not an image format.", f"Use one of {', '.join(FORMATS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STORE).exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise OutputError(f"{folder} holds files already, and no list was begun in it.", "Give a new folder.")
    with only_writer(folder), contextlib.closing(store.open_store(folder / STORE)) as db:
        facts, known = {**settings.facts(), **({"out": out} if out else {})}, store.facts(db)
        for name in {**known, **(facts if known else {})}:
            if facts.get(name) != known.get(name):
                raise JobError(
                    f"{folder} was begun with {name} {_shown(known.get(name))}, and this is {_shown(facts.get(name))}.",
                    "Give the same, or another folder.",
                )
        store.note(db, facts)
        # Nobody else writes here, so what is said to run was left by a stopped run.
        store.requeue_all(db)
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield Batch(folder, out or str(folder), db, settings)


def _shown(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _prompt(job: Job) -> JsonValue:
    data = asked(job.request)["request"]
    assert isinstance(data, dict)
    return data["prompt"]
