"""A worker: a process that holds one pipeline, draws jobs from a store and tells its parent what happens.

`python -m kandinsky.jobs.worker` reads its options as one JSON line on stdin, and ends when stdin does, since
its parent is gone then. What it tells goes to stdout as frames: a JSON line, whose "bytes" says how many raw
bytes follow it.
"""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

from pydantic import JsonValue

from kandinsky.core.errors import JobError, KandinskyError, OutputError
from kandinsky.core.events import Decoding, Denoising, Encoding, Event, Finished, Result, Warned
from kandinsky.core.metadata import metadata_of, write_image
from kandinsky.core.requests import Request
from kandinsky.jobs import store
from kandinsky.jobs.store import LEASE_SECONDS, Job

if TYPE_CHECKING:
    from kandinsky.engine.pipeline import Pipeline

Tell: TypeAlias = Callable[..., None]
"""Sends a frame: `tell(kind, data=b"", **values)`."""
LARGEST_FRAME = 2**26


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is told when it starts.

    `load` are the arguments of `kandinsky.load`; images are written into `folder`; it claims up to `claim`
    jobs at once and denoises up to `batch_size` images together (default: the pipeline's own). With `previews`
    it sends a small image at every so manieth step. It ends when nothing is queued, or goes on `waiting`.
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


def job_request(request: Request, outputs: Sequence[str], base: str | Path | None = None) -> dict[str, JsonValue]:
    """What a job holds: the request, the file names of its images, and the folder of its input images."""
    return {"request": request.to_json(), "outputs": list(outputs), "base": None if base is None else str(base)}


class StopWorker(Exception):  # noqa: N818  # not an error: the end of the work
    """The worker is to stop, or no job of its batch is wanted any more."""


class Worker:
    """Claims jobs of a store for one pipeline until it is to stop; `stopping` may be set by a signal."""

    def __init__(self, pipe: "Pipeline", db: sqlite3.Connection, name: str, options: WorkerOptions, tell: Tell) -> None:
        self.pipe, self.db, self.name, self.options, self.tell = pipe, db, name, options, tell
        self.stopping = threading.Event()
        self.progress: JsonValue = None

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
                    self.stopping.wait(0.2)
                else:
                    return
        except StopWorker:
            pass
        finally:
            with contextlib.suppress(JobError):  # a full disk: the lease runs out by itself
                store.give_back(self.db, self.name)

    def draw(self, jobs: Sequence[Job]) -> None:
        """Draws the jobs of a claim together, and ends each of them.

        All are written before the first is marked as done, so that after a kill the same jobs are drawn in
        the same batch again. Where drawing fails for want of memory the batch is halved, then each is drawn
        by itself; where it fails for another reason, the job that fails alone is the one that is failed. That
        an image or the store cannot be written is no job's fault: OutputError and JobError come through.
        """
        requests: dict[int, Request] = {}
        for job in jobs:
            try:
                requests[job.id] = self._request(job)
            except KandinskyError as error:
                self._fail(job.id, error)
        size = self.options.batch_size or self.pipe.batch_size
        while requests:
            try:
                self._together(jobs, requests, size)
                return
            except (StopWorker, OutputError, JobError):
                raise
            except Exception as error:
                failure = error
                if is_out_of_memory(error) and size > 1:
                    _free_memory()
                    size = max(1, size // 2)
                    self.tell("warned", message=f"Out of memory: drawn again {size} at a time.")
                    continue
            if len(requests) == 1:
                self._fail(next(iter(requests)), failure)
                return
            for one, request in requests.items():
                self.draw_alone([job for job in jobs if job.id == one], request)
            return

    def draw_alone(self, jobs: Sequence[Job], request: Request) -> None:
        """Draws one job one image at a time, or fails it."""
        try:
            self._together(jobs, {jobs[0].id: request}, 1)
        except (StopWorker, OutputError, JobError):
            raise
        except Exception as error:
            self._fail(jobs[0].id, error)

    def _together(self, jobs: Sequence[Job], requests: dict[int, Request], size: int) -> None:
        outputs = {job.id: _outputs(job) for job in jobs}
        ids = list(requests)
        results: dict[int, JsonValue] = {}
        with contextlib.closing(self.pipe.stream_batch(list(requests.values()), size)) as stream:
            for event in self._followed(stream, ids, requests):
                if isinstance(event, Finished) and ids[event.index] in requests:
                    one = ids[event.index]
                    results[one] = self._written(event.result, outputs[one])
        ended = store.finish(self.db, self.name, {one: results[one] for one in ids if one in requests})
        self.tell("done", jobs=sorted(ended))

    def _followed(
        self, stream: Generator[Event, None, None], ids: Sequence[int], wanted: dict[int, Request]
    ) -> Generator[Event, None, None]:
        """The events of a batch, told; takes jobs that are cancelled out of `wanted`, and stops when told to."""
        for event in stream:
            self._show(event, ids)
            yield event
            if self.stopping.is_set():
                raise StopWorker
            if gone := store.cancelled(self.db, self.name):
                store.drop(self.db, self.name, gone)
                self.tell("cancelled", jobs=sorted(gone))
                for one in gone:
                    wanted.pop(one, None)
                if not wanted:
                    return

    def _show(self, event: Event, ids: Sequence[int]) -> None:
        match event:
            case Encoding(stage=stage):
                self.progress = {"stage": stage}
            case Denoising(stage=stage, step=step, total=total, preview=preview):
                self.progress = {"stage": stage, "step": step, "total": total}
                if preview is not None and self.options.previews and step % self.options.previews == 0:
                    for place, image in enumerate(preview()):
                        size = {"width": image.width, "height": image.height, "image": place}
                        self.tell("preview", image.convert("RGB").tobytes(), jobs=list(ids), **size)
            case Decoding():
                self.progress = {"stage": "decoding"}
            case Warned(message=message):
                self.tell("warned", message=message, jobs=list(ids))
                return
            case _:
                return
        self.tell("progress", jobs=list(ids), **self.progress)

    def _request(self, job: Job) -> Request:
        assert isinstance(job.request, dict)
        data, base = job.request["request"], job.request.get("base")
        assert isinstance(data, dict)
        return self.pipe.checked(Request.from_json(data, None if base is None else str(base)))

    def _written(self, result: Result, outputs: Sequence[str]) -> JsonValue:
        """Writes the images of a job, each whole; what is said of them in its result."""
        said: list[JsonValue] = []
        for index, (image, name) in enumerate(zip(result.images, outputs, strict=True)):
            made = metadata_of(result, index)
            made = replace(made, model=made.model or self.pipe.model_id)
            path = write_image(image, Path(self.options.folder, name), made)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            said.append({"file": name, "sha256": digest, "seed": result.seeds[index], "size": list(image.size)})
        return said

    def _fail(self, job: int, error: Exception) -> None:
        said = error_json(error)
        if not isinstance(error, KandinskyError):
            traceback.print_exception(error)
        store.fail(self.db, self.name, {job: said})
        self.tell("failed", jobs=[job], error=said)


def _outputs(job: Job) -> list[str]:
    assert isinstance(job.request, dict)
    outputs = job.request["outputs"]
    assert isinstance(outputs, list)
    return [str(one) for one in outputs]


def error_json(error: Exception) -> dict[str, JsonValue]:
    """What a failed job says: the kind of error, and its message in one line."""
    message = error.message if isinstance(error, KandinskyError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, KandinskyError) else ""
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return {"type": kind, "message": " ".join(message.split())[:500], "hint": hint}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left: torch says it of CPUs in words alone."""
    import torch

    words = ("not enough memory", "can't allocate memory", "out of memory")
    in_words = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or in_words


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def frame(stream: IO[bytes], lock: threading.Lock) -> Tell:
    """A `Tell` that writes to a stream; several threads may use it."""

    def tell(kind: str, data: bytes = b"", **values: JsonValue) -> None:
        header = {"kind": kind, **values, **({"bytes": len(data)} if data else {})}
        try:
            with lock:
                stream.write(json.dumps(header).encode() + b"\n" + data)
                stream.flush()
        except BrokenPipeError as error:
            raise StopWorker from error

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
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    options = WorkerOptions.from_json(_first_line())
    tell = frame(frames, threading.Lock())
    name = f"{os.getpid()}-{os.urandom(8).hex()}"
    _watch_parent(options, name)
    try:
        import kandinsky

        db = store.open_store(options.path)
        pipe = kandinsky.load(**options.load)  # type: ignore[arg-type]
    except KandinskyError as error:
        tell("unusable", error=error_json(error))
        raise SystemExit(4) from error
    worker = Worker(pipe, db, name, options, tell)
    worker.stopping = stopping
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
            store.heartbeat(db, worker.name, worker.progress, worker.options.seconds)


def _watch_parent(options: WorkerOptions, name: str) -> None:
    """Ends this process with its parent, whose end closes stdin."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(KandinskyError):
            store.give_back(store.open_store(options.path), name)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
