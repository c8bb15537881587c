"""Rows of a list in WebDataset shards: archives that are complete, or not there."""

import io
import json
import sqlite3
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from kandinsky.jobs import store
from kandinsky.jobs.places import Place
from kandinsky.jobs.store import Job
from kandinsky.jobs.supervisor import Listener


@dataclass(frozen=True)
class Shards:
    """Archives of `size` rows each, in the order of the list."""

    place: Place
    db: sqlite3.Connection
    size: int

    def of(self, job: int) -> str:
        """The name of the shard that a job belongs to."""
        return f"shard-{(job - 1) // self.size:05d}.tar"

    def packing(self, on_message: Listener) -> Listener:
        """A listener that packs a shard as soon as nothing of it is left to be drawn."""

        def hear(header: dict[str, JsonValue], data: bytes) -> None:
            on_message(header, data)
            ended = header.get("jobs")
            if header["kind"] == "done" and isinstance(ended, list):
                names = {self.of(int(str(one))) for one in ended}
                self._pack([name for name in sorted(names) if not self._has_open_jobs(name)])

        return hear

    def pack_loose(self) -> None:
        """Packs all rows that have files of their own still."""
        there = self.place.names()
        self._pack(sorted({self.of(job.id) for job in store.listed(self.db, "done") if there & set(files_of(job))}))

    def _jobs_of(self, shard: str) -> list[Job]:
        first = int(shard[6:11]) * self.size
        return list(store.listed(self.db, after=first, limit=self.size))

    def _has_open_jobs(self, shard: str) -> bool:
        return any(job.state in ("queued", "running") for job in self._jobs_of(shard))

    def _pack(self, shards: Sequence[str]) -> None:
        """Puts the files of done rows into their shards, in one step each, and removes them then."""
        for shard in shards:
            jobs = [job for job in self._jobs_of(shard) if job.state == "done"]
            packed = self.place.read(shard)
            held = {} if packed is None else _members(packed)
            for job in jobs:
                for name in files_of(job):
                    if (data := self.place.read(name)) is not None:
                        held[name] = data
                said = {"id": job.name, "files": job.result, **asked(job.request)}
                held[f"{job.name}.json"] = json.dumps(said, ensure_ascii=False, sort_keys=True).encode()
            order = [name for job in jobs for name in (*files_of(job), f"{job.name}.json")]
            self.place.write(shard, _tar({name: held[name] for name in order}))
            for job in jobs:
                for name in files_of(job):
                    self.place.remove(name)


def asked(data: JsonValue) -> dict[str, JsonValue]:
    """What a job asks for, without where its input images lie."""
    assert isinstance(data, dict)
    return {"request": _plain(data["request"])}


def _plain(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if name != "path"}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def files_of(job: Job) -> list[str]:
    """The files of a job that is done."""
    assert isinstance(job.result, list)
    return [str(one["file"]) for one in job.result if isinstance(one, dict)]


def _members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
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
