"""A list of requests and a folder of images: whatever happens in between, each row is drawn exactly once."""

import contextlib
import fcntl
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from kandinsky.core.errors import JobError, OutputError, RequestError
from kandinsky.core.events import numbered
from kandinsky.core.files import write_atomically
from kandinsky.core.metadata import FORMATS, library_version
from kandinsky.jobs import store, supervisor
from kandinsky.jobs.rows import Row, RowError, identity, request_of
from kandinsky.jobs.store import Job, NewJob
from kandinsky.jobs.worker import WorkerOptions, job_request
from kandinsky.tasks.generate import batch_key

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline

STORE = "jobs.db"
MANIFEST = "manifest.jsonl"
LOCK = ".lock"


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


class Batch:
    """The folder of a list: its store, its images, and the right to write into it. Made by `open_batch`."""

    def __init__(self, folder: Path, db: sqlite3.Connection, settings: Settings) -> None:
        self.folder, self.db, self.settings = folder, db, settings

    def add(self, jobs: Sequence[NewJob]) -> int:
        """Queues the rows that the store does not hold yet; returns how many it held.

        Raises JobError when a row differs from the one of its id, or one that the store holds is not given.
        """
        known = {job.name: job for job in store.listed(self.db)}
        for job in jobs:
            if (held := known.get(job.name)) is not None and _asked(held.request) != _asked(job.request):
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
        done = list(store.listed(self.db, "done"))
        lost = [job.group for job in done if not self._is_there(job)]
        store.reopen(self.db, [job.id for job in done if job.group in set(lost)])
        return len(lost)

    def run(self, workers: Sequence[Mapping[str, JsonValue]], on_message: supervisor.Listener) -> None:
        """Draws what is queued; `workers` are what each worker's arguments of `load` have of its own.

        The manifest says afterwards what became of each row, also when this is interrupted.
        """
        options = [
            WorkerOptions(
                path=str(self.folder / STORE),
                folder=str(self.folder),
                load={**self.settings.load, **own},
                claim=self.settings.batch_size,
                batch_size=self.settings.batch_size,
            )
            for own in workers
        ]
        try:
            if store.counts(self.db)["queued"]:
                supervisor.run(options, self._packing(on_message))
            self._pack(self._shards())
        finally:
            self.write_manifest()

    def write_manifest(self) -> None:
        """Writes what became of each row as JSON lines, in their order."""
        lines = []
        for job in store.listed(self.db):
            said: dict[str, JsonValue] = {"id": job.name, "state": job.state, "prompt": _prompt(job)}
            if job.state == "done":
                said |= {"files": job.result, **({"shard": self._shard_of(job.id)} if self.settings.shards else {})}
            if job.state == "failed":
                said["error"] = job.error
            lines.append(json.dumps(said, ensure_ascii=False) + "\n")
        write_atomically(self.folder / MANIFEST, "".join(lines).encode())

    def _is_there(self, job: Job) -> bool:
        if self.settings.shards and (self.folder / self._shard_of(job.id)).is_file():
            return True
        return all((self.folder / name).is_file() for name in _files(job))

    def _shard_of(self, job: int) -> str:
        return f"shard-{(job - 1) // self.settings.shards:05d}.tar"

    def _shards(self) -> list[str]:
        """The names of shards that have rows of their own files still."""
        if not self.settings.shards:
            return []
        loose = (job for job in store.listed(self.db, "done") if any((self.folder / f).exists() for f in _files(job)))
        return sorted({self._shard_of(job.id) for job in loose})

    def _packing(self, on_message: supervisor.Listener) -> supervisor.Listener:
        """Packs a shard as soon as nothing of it is left to be drawn."""
        if not self.settings.shards:
            return on_message

        def hear(header: dict[str, JsonValue], data: bytes) -> None:
            on_message(header, data)
            ended = header.get("jobs")
            if header["kind"] == "done" and isinstance(ended, list):
                names = {self._shard_of(int(str(one))) for one in ended}
                self._pack([name for name in sorted(names) if not self._open_jobs(name)])

        return hear

    def _jobs_of(self, shard: str) -> list[Job]:
        first = int(shard[6:11]) * self.settings.shards
        return list(store.listed(self.db, after=first, limit=self.settings.shards))

    def _open_jobs(self, shard: str) -> bool:
        return any(job.state in ("queued", "running") for job in self._jobs_of(shard))

    def _pack(self, shards: Sequence[str]) -> None:
        """Puts the files of done rows into their shards, in one step each, and removes them then."""
        for shard in shards:
            jobs = [job for job in self._jobs_of(shard) if job.state == "done"]
            held = _members(self.folder / shard)
            for job in jobs:
                for name in _files(job):
                    with contextlib.suppress(FileNotFoundError):
                        held[name] = (self.folder / name).read_bytes()
                said = {"id": job.name, "files": job.result, **_asked(job.request)}
                held[f"{job.name}.json"] = json.dumps(said, ensure_ascii=False, sort_keys=True).encode()
            order = [name for job in jobs for name in (*_files(job), f"{job.name}.json")]
            write_atomically(self.folder / shard, _tar({name: held[name] for name in order}))
            for job in jobs:
                for name in _files(job):
                    (self.folder / name).unlink(missing_ok=True)


@contextmanager
def open_batch(folder: Path, settings: Settings) -> Iterator[Batch]:
    """Opens a folder for a list, which nobody else may write into meanwhile.

    Raises OutputError when it holds other files or is in use, JobError when it was begun with another model or
    other settings.
    """
    if settings.suffix not in FORMATS:
        raise OutputError(f"{settings.suffix} is no image format.", f"Use one of {', '.join(FORMATS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STORE).exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise OutputError(f"{folder} holds files already, and no list was begun in it.", "Give a new folder.")
    with _alone(folder), contextlib.closing(store.open_store(folder / STORE)) as db:
        facts, known = settings.facts(), store.facts(db)
        for name, value in known.items():
            if facts.get(name) != value:
                raise JobError(
                    f"{folder} was begun with {name} {_shown(value)}, and this is {_shown(facts.get(name))}.",
                    "Give the same, or another folder.",
                )
        store.note(db, facts)
        # Nobody else writes here, so what is said to run was left by a stopped run.
        store.requeue_all(db)
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield Batch(folder, db, settings)


def _shown(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"Another process draws into {folder}.", "Wait for it, or stop it.") from error
        yield
    finally:
        os.close(handle)


def _asked(data: JsonValue) -> dict[str, JsonValue]:
    """What a job asks for, without where its input images lie."""
    assert isinstance(data, dict)
    return {"request": _plain(data["request"])}


def _plain(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if name != "path"}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _prompt(job: Job) -> JsonValue:
    data = _asked(job.request)["request"]
    assert isinstance(data, dict)
    return data["prompt"]


def _files(job: Job) -> list[str]:
    assert isinstance(job.result, list)
    return [str(one["file"]) for one in job.result if isinstance(one, dict)]


def _members(path: Path) -> dict[str, bytes]:
    """The files in a shard; none where there is no such shard."""
    if not path.exists():
        return {}
    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]


def _tar(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files, in their order; the same files give the same bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()
