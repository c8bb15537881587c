"""A list drawn by a Ray cluster: actors draw and hand images back, the ledger and the writing stay here.

Rows of one group travel together, so that images are those of any other run. What an actor or a node takes with it
when it is lost is still queued here, and is drawn again; whoever is killed here goes on from the ledger.
"""

import collections
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from kandinsky.core.errors import JobError, KandinskyError, RequestError
from kandinsky.core.events import Event, Result, Warned
from kandinsky.core.metadata import library_version
from kandinsky.jobs import store
from kandinsky.jobs.batch import Batch, Draw
from kandinsky.jobs.drawing import draw_jobs, encoded
from kandinsky.jobs.store import CRASHES
from kandinsky.jobs.supervisor import Listener

LOCAL = "local"
NAME = "ray"
"""The worker that jobs belong to while their images are written here."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: its `address` (what `ray.init` takes; "local" starts one on this machine), how many actors
    draw there, and on which `device` (by default a GPU each where the cluster has any, else a CPU each)."""

    address: str
    actors: int = 1
    device: str | None = None


@dataclass
class Gathered:
    """A ledger in the memory of an actor: what became of jobs, and their files."""

    model: str
    results: dict[int, JsonValue] = field(default_factory=dict)
    errors: dict[int, JsonValue] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def hear(self, event: Event, jobs: Sequence[int]) -> set[int]:
        """Keeps warnings; nothing is cancelled here."""
        if isinstance(event, Warned):
            self.warned(event.message)
        return set()

    def keep(self, result: Result, names: Sequence[str]) -> JsonValue:
        """Encodes the images of a job."""
        said: list[JsonValue] = []
        for name, data, one in encoded(result, names, self.model):
            self.files[name] = data
            said.append(one)
        return said

    def done(self, results: dict[int, JsonValue]) -> None:
        """Notes results."""
        self.results |= results

    def failed(self, job: int, error: dict[str, JsonValue]) -> None:
        """Notes an error."""
        self.errors[job] = error

    def warned(self, message: str) -> None:
        """Notes a warning."""
        self.warnings.append(message)


class RayWorker:
    """An actor: one pipeline, which draws groups of jobs."""

    def __init__(self, load: dict[str, Any], batch_size: int, version: str) -> None:
        import kandinsky

        if library_version() != version:
            raise JobError(f"This node has version {library_version()} of kandinsky, and the list needs {version}.")
        self.pipe, self.batch_size = kandinsky.load(**load), batch_size

    def ready(self) -> None:
        """Answers when the model is loaded."""

    def draw(self, jobs: dict[int, JsonValue]) -> Gathered:
        """Draws jobs together; what became of them, with their files."""
        found = Gathered(self.pipe.model_id)
        draw_jobs(self.pipe, jobs, self.batch_size, found)
        return found


def by_cluster(cluster: Cluster) -> Draw:
    """A `Draw` by a Ray cluster.

    Raises RequestError where Ray is not installed, JobError where the cluster cannot be reached, has too little for
    the actors, or cannot load the model.
    """

    def draw(batch: Batch, on_message: Listener) -> None:
        ray = _ray()
        with _connected(ray, cluster.address):
            _Driver(ray, cluster, batch, on_message).run()

    return draw


@dataclass
class _Group:
    """Jobs that are drawn in one batch, and how many actors they have ended."""

    jobs: dict[int, JsonValue]
    crashes: int = 0


class _Driver:
    """This side: hands each actor one group at a time, writes what comes back, replaces actors that are lost."""

    def __init__(self, ray: Any, cluster: Cluster, batch: Batch, on_message: Listener) -> None:
        self.ray, self.batch, self.on_message = ray, batch, on_message
        self.device, self.actors = cluster.device or self._device(), cluster.actors
        self.queue = collections.deque(self._queued())
        self.waiting: dict[Any, tuple[Any, _Group | None]] = {}
        self.failures = 0
        """Actors in a row that were lost before they had loaded the model."""

    def _device(self) -> str:
        return "cuda" if self.ray.cluster_resources().get("GPU") else "cpu"

    def _queued(self) -> list[_Group]:
        groups: dict[str, dict[int, JsonValue]] = {}
        for job in store.listed(self.batch.db, "queued"):
            groups.setdefault(job.group, {})[job.id] = job.request
        return [_Group(jobs) for jobs in groups.values()]

    def run(self) -> None:
        """Draws until nothing is queued."""
        kind = "GPU" if self.device.startswith("cuda") else "CPU"
        has = int(self.ray.cluster_resources().get(kind, 0))
        if has < self.actors:
            raise JobError(f"The cluster has {has} {kind}s for {self.actors} workers.", f"Use --workers {max(1, has)}.")
        settings = self.batch.settings
        actor = self.ray.remote(**{f"num_{kind.lower()}s": 1})(RayWorker)
        given = {**settings.load, "device": self.device}
        self._start: Callable[[], Any] = lambda: actor.remote(given, settings.batch_size, library_version())
        for _ in range(min(self.actors, len(self.queue))):
            self._begin()
        while self.waiting:
            (answer,), _ = self.ray.wait(list(self.waiting))
            worker, group = self.waiting.pop(answer)
            try:
                found = self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                self._lost(worker, group, error)
                continue
            if group is None:
                self.failures = 0
                self.on_message({"kind": "ready"}, b"")
            else:
                self._keep(found)
            self._next(worker)

    def _begin(self) -> None:
        worker = self._start()
        self.waiting[worker.ready.remote()] = worker, None

    def _next(self, worker: Any) -> None:
        if self.queue:
            group = self.queue.popleft()
            self.waiting[worker.draw.remote(group.jobs)] = worker, group

    def _lost(self, worker: Any, group: _Group | None, error: Exception) -> None:
        """Replaces an actor; its group is drawn again, in the end one by one, and fails with the last one it ends."""
        self.ray.kill(worker)
        if group is None:
            self.failures += 1
            cause = getattr(error, "cause", None)
            if isinstance(cause, KandinskyError):
                raise JobError(cause.message, cause.hint)
            if self.failures > CRASHES:
                raise JobError(f"No actor could load the model: {_reason(error)}", "See the logs of the cluster.")
        else:
            self.on_message({"kind": "crashed", "worker": NAME, "code": "lost"}, _reason(error).encode())
            group.crashes += 1
            if group.crashes < CRASHES:
                self.queue.appendleft(group)
            elif len(group.jobs) > 1:
                self.queue.extendleft(_Group({one: job}, CRASHES - 1) for one, job in reversed(group.jobs.items()))
            else:
                said: JsonValue = {"type": "crash", "message": f"It ended its actor {CRASHES} times or more."}
                self._keep(Gathered("", errors=dict.fromkeys(group.jobs, said)))
        if self.queue:
            self._begin()

    def _keep(self, found: Gathered) -> None:
        """Writes all images of a group, then says that its jobs are done."""
        db = self.batch.db
        for message in found.warnings:
            self.on_message({"kind": "warned", "message": message}, b"")
        for name, data in found.files.items():
            self.batch.place.write(name, data)
        store.take(db, NAME, (*found.results, *found.errors))
        if ended := store.finish(db, NAME, found.results):
            self.on_message({"kind": "done", "jobs": [*sorted(ended)]}, b"")
        for one in sorted(store.fail(db, NAME, found.errors)):
            self.on_message({"kind": "failed", "jobs": [one], "error": found.errors[one]}, b"")


def _ray() -> Any:
    try:
        import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise RequestError("--ray needs Ray.", "Run: pip install 'kandinsky-diffusion[cluster]'") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine for as long as it lasts."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Whoever draws is here for nothing else: no lower priority than other programs.
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise JobError(f"There is no Ray cluster at {address}: {_reason(error)}", "Run: ray start --head") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reason(error: BaseException) -> str:
    """The last words of what Ray raised, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
