"""A worker: a process that holds one pipeline, draws jobs from a store and tells its parent what happens.

`python -m kandinsky.jobs.worker` reads its options as one JSON line on stdin, and ends when stdin does, since
its parent is gone then. What it tells goes to stdout as frames: a JSON line, whose "bytes" says how many raw
bytes follow it.
"""

import contextlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, TypeAlias

from pydantic import JsonValue

from kandinsky.core.errors import JobError, KandinskyError
from kandinsky.core.events import Decoding, Denoising, Encoding, Event, Result, Warned
from kandinsky.jobs import store
from kandinsky.jobs.adapters import adapt, lora_of
from kandinsky.jobs.drawing import StopDrawing, draw_jobs, encoded, error_json, preview_steps
from kandinsky.jobs.places import open_place
from kandinsky.jobs.store import LEASE_SECONDS, Job

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline

Tell: TypeAlias = Callable[..., None]
"""Sends a frame: `tell(kind, data=b"", **values)`."""
LARGEST_FRAME = 2**26
PROGRESS_SECONDS = 0.1
"""Between two steps of a stage that are told. A frame costs what some steps of a small model do."""


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is told when it starts.

    `load` are the arguments of `kandinsky.load`; images are written into `folder`, a path or an address of
    fsspec; it claims up to `claim` jobs at once and denoises up to `batch_size` images together (default: the
    pipeline's own). With `previews` it sends a small image at every so manieth step. It ends when nothing is
    queued, or goes on `waiting`.
    """

    path: str
    folder: str
    load: dict[str, JsonValue] = field(default_factory=dict)
    claim: int = 1
    batch_size: int | None = None
    previews: int = 0
    waiting: bool = False
    seconds: float = LEASE_SECONDS

    def to_json(self) -> str:
        """This in one line, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "WorkerOptions":
        """What `to_json` wrote."""
        return cls(**json.loads(line))


class Worker:
    """Claims jobs of a store for one pipeline until it is to stop; `stopping` may be set by a signal."""

    def __init__(self, pipe: "Pipeline", db: sqlite3.Connection, name: str, options: WorkerOptions, tell: Tell) -> None:
        self.pipe, self.db, self.name, self.options, self.tell = pipe, db, name, options, tell
        self.place = open_place(options.folder)
        self.stopping, self.waking = threading.Event(), threading.Event()
        self.drawing: dict[int, JsonValue] = {}
        self.progress: dict[str, JsonValue] = {}
        self._told: tuple[JsonValue, bool] | None = None
        self._told_at = 0.0
        self.usual = dict(pipe.loras)

    def run(self) -> None:
        """Draws what is queued; returns when nothing is, or when it is to stop, with no lease left."""
        try:
            while not self.stopping.is_set():
                store.requeue_expired(self.db)
                jobs = store.claim(self.db, self.name, self.options.claim, self.options.seconds)
                if jobs:
                    self.tell("claimed", jobs=[job.id for job in jobs])
                    self.draw(jobs)
                elif self.options.waiting or store.counts(self.db)["running"]:
                    self.waking.wait(0.2)
                    self.waking.clear()
                else:
                    return
        except StopDrawing:
            pass
        finally:
            with contextlib.suppress(JobError):  # a full disk: the lease runs out by itself
                store.give_back(self.db, self.name)

    def draw(self, jobs: Sequence[Job]) -> None:
        """Draws the jobs of a claim, whose adapters are the same, and ends each of them; see `draw_jobs`."""
        self.drawing = {job.id: job.request for job in jobs}
        try:
            adapt(self.pipe, lora_of(jobs[0].request, self.usual))
        except KandinskyError as error:
            for job in jobs:
                self.failed(job.id, error_json(error))
            return
        draw_jobs(self.pipe, self.drawing, self.options.batch_size or self.pipe.batch_size, self)

    def hear(self, event: Event, jobs: Sequence[int]) -> set[int]:
        """Tells an event; returns the jobs that are cancelled. Raises StopDrawing when the worker is to stop."""
        self._show(event, jobs)
        if self.stopping.is_set():
            raise StopDrawing
        if gone := store.cancelled(self.db, self.name):
            store.drop(self.db, self.name, gone)
            self.tell("cancelled", jobs=sorted(gone))
        return gone

    def keep(self, result: Result, names: Sequence[str]) -> JsonValue:
        """Writes the images of a job, each whole; what is said of them in its result."""
        said: list[JsonValue] = []
        for name, data, one in encoded(result, names, self.pipe.model_id):
            self.place.write(name, data)
            said.append(one)
        return said

    def done(self, results: dict[int, JsonValue]) -> None:
        """Marks jobs as done, together."""
        self.tell("done", jobs=sorted(store.finish(self.db, self.name, results)))

    def failed(self, job: int, error: dict[str, JsonValue]) -> None:
        """Marks a job as failed."""
        store.fail(self.db, self.name, {job: error})
        self.tell("failed", jobs=[job], error=error)

    def warned(self, message: str) -> None:
        """Tells a warning."""
        self.tell("warned", message=message)

    def _show(self, event: Event, ids: Sequence[int]) -> None:
        match event:
            case Encoding(stage=stage):
                self.progress = {"stage": stage}
            case Denoising(stage=stage, step=step, total=total, preview=preview):
                self.progress = {"stage": stage, "step": step, "total": total}
                if preview is not None and self._preview_is_due(step, total, ids):
                    for place, image in enumerate(preview()):
                        size = {"width": image.width, "height": image.height, "image": place}
                        self.tell("preview", image.convert("RGB").tobytes(), jobs=list(ids), step=step, **size)
            case Decoding():
                self.progress = {"stage": "decoding"}
            case Warned(message=message):
                self.tell("warned", message=message, jobs=list(ids))
                return
            case _:
                return
        self._tell_progress(ids)

    def _tell_progress(self, ids: Sequence[int]) -> None:
        """Tells where it is: each stage, and of its steps the last and those that come a while after one told."""
        now = time.monotonic()
        place = self.progress["stage"], self.progress.get("step") == self.progress.get("total")
        if place != self._told or now - self._told_at >= PROGRESS_SECONDS:
            self._told, self._told_at = place, now
            self.tell("progress", jobs=list(ids), **self.progress)

    def _preview_is_due(self, step: int, total: int, ids: Sequence[int]) -> bool:
        every = self.options.previews
        return bool(every and step % every == 0) or any(step in preview_steps(self.drawing[i], total) for i in ids)


def frame(stream: IO[bytes], lock: threading.Lock) -> Tell:
    """A `Tell` that writes to a stream; several threads may use it."""

    def tell(kind: str, data: bytes = b"", **values: JsonValue) -> None:
        header = {"kind": kind, **values, **({"bytes": len(data)} if data else {})}
        try:
            with lock:
                stream.write(json.dumps(header).encode() + b"\n" + data)
                stream.flush()
        except BrokenPipeError as error:
            raise StopDrawing from error

    return tell


def read_frame(stream: IO[bytes]) -> tuple[dict[str, JsonValue], bytes] | None:
    """The next frame and its bytes; None at the end, also where a frame was cut off."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    size = int(header.get("bytes", 0))
    if not 0 <= size <= LARGEST_FRAME:
        raise ValueError(f"a frame of {size} bytes")
    data = stream.read(size)
    return (header, data) if len(data) == size else None


def main() -> None:
    """Runs a worker; see the module. Exit codes: 0 done or told to stop, 3 its parent is gone, 4 it cannot
    load its model, or cannot write."""
    # What libraries print goes to stderr; stdout is for frames.
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child; the parent decides
    stopping, waking = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        waking.set()

    signal.signal(signal.SIGTERM, stop)
    options = WorkerOptions.from_json(_first_line())
    tell = frame(frames, threading.Lock())
    name = f"{os.getpid()}-{os.urandom(8).hex()}"
    _watch_parent(options, name, waking)
    try:
        import kandinsky

        db = store.open_store(options.path)
        pipe = kandinsky.load(**options.load)  # type: ignore[arg-type]
    except KandinskyError as error:
        tell("unusable", error=error_json(error))
        raise SystemExit(4) from error
    worker = Worker(pipe, db, name, options, tell)
    worker.stopping, worker.waking = stopping, waking
    threading.Thread(target=_renew, args=(worker,), daemon=True).start()
    tell("ready", worker=name)
    try:
        worker.run()
    except KandinskyError as error:
        tell("unusable", error=error_json(error))
        raise SystemExit(4) from error
    tell("stopped")


def _first_line() -> str:
    """The first line of stdin, without a buffer: at the end of the process nobody may hold one's lock."""
    line = b""
    while (one := os.read(0, 1)) not in {b"", b"\n"}:
        line += one
    return line.decode()


def _renew(worker: Worker) -> None:
    """Renews the worker's leases for as long as its process lives, however long a step takes."""
    db = store.open_store(worker.options.path)
    pause = threading.Event()
    while not pause.wait(min(1.0, worker.options.seconds / 4)):
        with contextlib.suppress(KandinskyError):  # the disk may be full for a while
            store.heartbeat(db, worker.name, worker.progress or None, worker.options.seconds)


def _watch_parent(options: WorkerOptions, name: str, waking: threading.Event) -> None:
    """Ends this process with its parent, whose end closes stdin; anything that it writes wakes a waiting worker."""

    def watch() -> None:
        while os.read(0, 4096):
            waking.set()
        with contextlib.suppress(KandinskyError):
            store.give_back(store.open_store(options.path), name)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
