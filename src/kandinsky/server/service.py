"""The queue behind the routes: what is asked becomes jobs, and what workers tell reaches whoever waits."""

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import sqlite3
import sys
import threading
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from pydantic import JsonValue

from kandinsky.core.errors import JobError, OutputError, RequestError
from kandinsky.core.locks import only_writer
from kandinsky.core.requests import Request
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import Pipeline
from kandinsky.jobs import store
from kandinsky.jobs.adapters import adapt, own_adapters
from kandinsky.jobs.drawing import job_request
from kandinsky.jobs.store import Job, NewJob
from kandinsky.jobs.supervisor import Supervisor
from kandinsky.jobs.worker import WorkerOptions
from kandinsky.server.errors import ApiError
from kandinsky.server.fetching import Fetcher
from kandinsky.server.input_files import InputFiles
from kandinsky.server.logs import LOGGER
from kandinsky.server.metrics import Metrics
from kandinsky.server.queueing import NOBODY, enqueued, full, left_running, stopping, text_of
from kandinsky.server.settings import ServerSettings
from kandinsky.server.telling import LEAVING, Told, tell
from kandinsky.tasks.generate import batch_key
from kandinsky.tasks.resolve import Resolved

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(LOGGER)
OUTLINED = ("prior", "variant", "revision", "behaviour", "lora")
LIVE = 1000
"""Events that a listener to all jobs of an owner may be behind; one that is further behind is let go."""
ENDED = ("done", "failed", "cancelled")
LONGEST_TEXT = 32_000
COMING_AGAIN = 10.0
"""Seconds that the work of a client with an idempotency key goes on without it."""
URGENT = 1_000_000
PAUSES = (1.0, 5.0, 30.0)
"""Seconds between attempts to start workers that cannot begin."""


class Service:
    """Jobs of one server. Its methods belong to the loop that `opened` ran in."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.images, self.inputs = settings.data / "images", InputFiles(settings, settings.data / "jobs.db")
        self.metrics, self.fetcher = Metrics(), Fetcher(settings.fetch_from)
        self.ready = self.draining = False
        self.why_not = "The model is being loaded."
        self.words: list[str] = []
        self.offered: dict[str, float] = {}
        self._following: dict[str, set[asyncio.Queue[Told]]] = {}
        # By those who asked and will `follow`: only they hold these, so that who never does leaves nothing behind.
        self._from_the_start = weakref.WeakKeyDictionary[asyncio.Queue[Told], str]()
        self._watching: dict[str, set[asyncio.Queue[tuple[str, Told]]]] = {}
        self._names: dict[int, str] = {}
        self._naming = threading.Lock()
        self._leaving = set[asyncio.Task[None]]()
        self._owners: dict[str, str] = {}
        self._begun: dict[str, tuple[object, float, int]] = {}
        self._resolving = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "store")
        self._stopping = False

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["Service"]:
        """Opens the store and starts the workers; at the end they finish their step and give their jobs back.

        Raises OutputError for a folder that is another's, or cannot be written, JobError for a store that is none, and
        what loading the model raises.
        """
        for folder in (self.images, self.inputs.folder):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"{self.settings.data} cannot be made, or written into ({error.strerror})."
                raise OutputError(message, "Give another --data.") from error
        with only_writer(self.settings.data), self._thread:
            async with self._store_opened(), self._running():
                yield self

    @contextlib.asynccontextmanager
    async def _store_opened(self) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._db = await self._loop.run_in_executor(self._thread, store.open_store, self._path)
        try:
            if await self.on_store(store.facts):
                raise OutputError(f"{self.settings.data} holds a batch of images.", "Give another --data.")
            yield
        finally:
            await self.on_store(sqlite3.Connection.close)

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.on_store(left_running)
        for job in await self.on_store(store.found, NOBODY, ("done",)):  # first images of servers that were killed
            await self.forget(job)
        for job in await self.on_store(lambda db: list(store.listed(db, "queued"))):
            self._names[job.id] = job.name or ""
            self._owners[job.name or ""] = job.owner
        load = self.settings.load
        outline = {name: load[name] for name in OUTLINED if name in load}
        self.outline: Pipeline = await asyncio.to_thread(
            functools.partial(meta_model, load.get("model"), **outline)  # type: ignore[arg-type]
        )
        self._usual = dict(self.outline.loras)
        self.offered = dict.fromkeys(own_adapters(self.settings.model), 0.0) | self._usual
        files = load.get("words")
        for one in files if isinstance(files, list | tuple) else ():
            self.words += await asyncio.to_thread(self.outline.load_words, str(one))
        options = [
            WorkerOptions(
                path=str(self._path),
                folder=str(self.images),
                load={**load, **own},
                claim=self.settings.batch_size,
                batch_size=self.settings.batch_size,
                waiting=True,
            )
            for own in self.settings.workers
        ]
        self._supervisor = Supervisor(options, self._hear)
        running = threading.Thread(target=self._supervise, args=(options,), name="workers")
        running.start()
        alongside = [asyncio.create_task(one) for one in (self._warm_up(), self.inputs.tidy_always())]
        try:
            yield
        finally:
            for task in (*alongside, *self._leaving):
                task.cancel()
            self._stopping = True
            self._supervisor.stop()
            await asyncio.to_thread(running.join)

    @property
    def _path(self) -> str:
        return str(self.settings.data / "jobs.db")

    async def on_store(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *given: P.args, **named: P.kwargs
    ) -> R:
        """What a function of the store returns; it runs in the thread that the connection belongs to."""
        call = functools.partial(function, self._db, *given, **named)
        return await self._loop.run_in_executor(self._thread, call)

    async def submit(
        self,
        request: Request,
        owner: str,
        *,
        priority: int = 0,
        previews: int = 0,
        suffix: str = ".png",
        key: str | None = None,
        again: bool = False,
        lora: Mapping[str, float] | None = None,
        heard: asyncio.Queue[Told] | None = None,
    ) -> list[str]:
        """Queues a request, a job for each of its images; returns their names once they are on the disk.

        `lora` are the adapters of those `offered` that act, and how strongly; None means the usual ones. With a `key`
        names are made of it, and jobs that have them already are not queued again, unless they were cancelled and it is
        asked for `again`. `heard` hears of the first image until somebody begins to `follow` it with that. Raises
        RequestError for one that cannot be drawn, ApiError 429 where too many are queued, 422 for a key that another
        request had.
        """
        if self.draining:
            raise stopping()
        if request.size > self.settings.most_queued:
            raise full(0)
        resolved = await asyncio.to_thread(self._resolved, request, lora)
        self._check_size(resolved.request)
        acting = None if lora is None else sorted(lora.items())
        group = hashlib.sha256(repr((batch_key(resolved), acting)).encode()).hexdigest()[:32]
        names = [
            uuid.uuid4().hex if key is None else hashlib.sha256(f"{key} {index}".encode()).hexdigest()[:32]
            for index in range(resolved.request.size)
        ]
        more: dict[str, JsonValue] = {"private": True} | ({} if lora is None else {"lora": {**lora}})

        def made(index: int, name: str) -> NewJob:
            one = resolved.request.alone(index)
            asked = job_request(one, [f"{name}{suffix}"], base=self.inputs.folder.resolve(), previews=previews) | more
            return NewJob(asked, group, name, owner, priority, text_of(one))

        # Thousands take a while, which the loop does not have.
        jobs = await asyncio.to_thread(lambda: [made(index, name) for index, name in enumerate(names)])
        if key is not None:
            same = hashlib.sha256(json.dumps(request.to_json(), sort_keys=True).encode()).hexdigest()
            jobs = [replace(job, request={**job.request, "asked": same}) for job in jobs]  # type: ignore[dict-item]
        most = self.settings.most_queued if owner != NOBODY else sys.maxsize
        if heard is not None:
            self._from_the_start[heard] = names[0]
        count = await self.on_store(self._enqueued, jobs, most, known=key is not None, again=again)
        self._supervisor.wake()
        log.info("jobs are queued", extra={"owner": owner, "jobs": count, "prompt": text_of(request)})
        return names

    def _enqueued(self, db: sqlite3.Connection, jobs: Sequence[NewJob], most: int, *, known: bool, again: bool) -> int:
        """As `enqueued`, in its thread; what a worker tells of the jobs waits until their names are known."""
        with self._naming:
            new, ids = enqueued(db, jobs, most, known=known, again=again)
            for one_id, job in zip(ids, new, strict=True):
                self._names[one_id] = job.name or ""
                self._owners[job.name or ""] = job.owner
                self._loop.call_soon_threadsafe(self._publish, job.name or "", Told("queued"))
        return len(ids)

    def _check_size(self, request: Request) -> None:
        """RequestError for a request whose images or texts are larger than this server takes."""
        most = self.settings.most_pixels
        if (request.width or 0) * (request.height or 0) > most:
            raise RequestError(
                f"width x height of {request.width} x {request.height} is more than this server draws.",
                f"Ask for at most {most / 1e6:.1f} million pixels.",
            )
        if len(text_of(request, LONGEST_TEXT + 1)) > LONGEST_TEXT:
            raise RequestError(f"prompt is longer than {LONGEST_TEXT} characters.", "Say it in fewer words.")

    def _resolved(self, request: Request, lora: Mapping[str, float] | None) -> Resolved:
        """The request as it is drawn with these adapters, of which some bring defaults of their own."""
        for name in lora or ():
            if name not in self.offered:
                known = ", ".join(self.offered) or "none"
                raise ApiError(400, f"There is no adapter {name[:64]!r} here; there are: {known}.", "lora", "not_found")
        with self._resolving:
            adapt(self.outline, self._usual if lora is None else lora)
            return self.outline.resolve(request)

    async def job(self, name: str, owner: str | None = None) -> Job:
        """The job of that name; ApiError 404 where there is none, or where it is another owner's."""
        with contextlib.suppress(JobError):
            found = await self.on_store(store.named, name)
            if owner is None or found.owner == owner:
                return found
        raise ApiError(404, f"There is no job {name[:64]!r}.", "id", "not_found")

    async def follow(self, name: str, heard: asyncio.Queue[Told] | None = None) -> AsyncIterator[Told]:
        """What happens to a job, from now, or from when `heard` was given to `submit`, until it has ended.

        The last one's kind is its state.
        """
        heard = asyncio.Queue() if heard is None else heard
        self._from_the_start.pop(heard, None)
        self._following.setdefault(name, set()).add(heard)
        try:
            state = (await self.job(name)).state
            while state not in ENDED or not heard.empty():
                told = await heard.get()
                if told.kind in ENDED:
                    state = (await self.job(name)).state
                elif told.kind != LEAVING:
                    yield told
                elif state not in ENDED:
                    raise stopping()
            yield Told(state)
        finally:
            following = self._following.get(name, set())
            following.discard(heard)
            if not following:
                self._following.pop(name, None)

    async def watch(self, owner: str) -> AsyncIterator[tuple[str, Told] | None]:
        """What happens to all jobs of an owner, from now on, by their names; None every few seconds of silence."""
        heard: asyncio.Queue[tuple[str, Told]] = asyncio.Queue(LIVE)
        self._watching.setdefault(owner, set()).add(heard)
        try:
            while heard in self._watching.get(owner, ()):
                try:
                    found = await asyncio.wait_for(heard.get(), 10)
                except TimeoutError:
                    yield None
                    continue
                if found[1].kind == LEAVING:
                    return
                yield found
        finally:
            self._watching.get(owner, set()).discard(heard)

    async def ended(self, name: str) -> Job:
        """The job, once it has ended."""
        async for _ in self.follow(name):
            pass
        return await self.job(name)

    async def cancel(self, names: Sequence[str]) -> None:
        """Cancels jobs; a running one stops at its next step."""
        ids = [(await self.job(name)).id for name in names]
        await self.on_store(store.cancel, ids)
        for name in names:
            if (await self.job(name)).state in ENDED:
                self._publish(name, Told("cancelled"))
                self._owners.pop(name, None)

    async def leave(self, names: Sequence[str], *, coming_again: bool) -> None:
        """Cancels what nobody waits for any more; of a client that said it would come again, only after a while."""
        if coming_again:
            await asyncio.sleep(COMING_AGAIN)
        await self.cancel([name for name in names if name not in self._following])

    def left(self, names: Sequence[str], *, coming_again: bool) -> None:
        """As `leave`, in the background."""
        task = asyncio.create_task(self.leave(names, coming_again=coming_again))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def forget(self, job: Job) -> None:
        """Removes a job that has ended, and its images; ApiError 409 for one that has not."""
        if not await self.on_store(store.forget, [job.id]):
            raise ApiError(409, "The job has not ended.", "id", "not_ended")
        for one in job.result if isinstance(job.result, list) else ():
            if isinstance(one, dict):
                (self.images / str(one["file"])).unlink(missing_ok=True)
        self.thumbnail(job).unlink(missing_ok=True)
        for heard in self._watching.get(job.owner, ()):
            tell(heard, (job.name or "", Told("forgotten")))

    def thumbnail(self, job: Job) -> Path:
        """Where the small image of a job lies once somebody has asked for it."""
        return self.settings.data / "thumbnails" / f"{job.name}.webp"

    def drain(self) -> None:
        """Takes nothing more; whoever still waits after a while is told to come again."""
        self.draining, self.ready, self.why_not = True, False, "The server is stopping."
        self._loop.call_later(self.settings.drain, self._leave)
        # Pages that only listen keep nobody: they come again by themselves.
        for heard in itertools.chain.from_iterable(self._watching.values()):
            tell(heard, ("", Told(LEAVING)))

    def _leave(self) -> None:
        for name in {*self._following, *self._from_the_start.values()}:
            self._publish(name, Told(LEAVING))

    async def _warm_up(self) -> None:
        """Draws an image that nobody asked for: ready is who has drawn."""
        pause = 0.0
        while not self.ready:
            await asyncio.sleep(pause)
            steps = {
                name: min(2, value) for name, value in self.outline.model.defaults.items() if name.endswith("steps")
            }
            (name,) = await self.submit(Request("a circle", seed=0, **steps), NOBODY, priority=URGENT)
            job = await self.ended(name)
            self.ready = job.state == "done"
            if not self.ready:
                self.why_not = f"The first image failed: {_message(job.error)}"
            await self.forget(job)
            pause = PAUSES[-1]

    def _supervise(self, options: Sequence[WorkerOptions]) -> None:
        """Keeps workers running; those that cannot begin are tried again after a while."""
        attempt = 0
        while not self._stopping:
            try:
                self._supervisor.run()
                return
            except JobError as error:
                log.error("workers cannot begin: %s", error)
                self.why_not = str(error)
            if threading.Event().wait(PAUSES[min(attempt, len(PAUSES) - 1)]) or self._stopping:
                return
            attempt += 1
            self._supervisor = Supervisor(options, self._hear)

    def _hear(self, header: dict[str, JsonValue], data: bytes) -> None:
        """Hears a worker, in the thread of the workers."""
        with self._naming, contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, header, data)

    def _tell(self, header: dict[str, JsonValue], data: bytes) -> None:
        jobs, kind = header.get("jobs"), str(header["kind"])
        ids = [int(str(one)) for one in jobs] if isinstance(jobs, list) else []
        values = {name: value for name, value in header.items() if name not in ("kind", "jobs", "bytes", "worker")}
        if kind == "crashed":
            log.warning("a worker ended", extra={"code": header["code"]})
            self.metrics.heard(kind, (), values)
            for name in list(self._following):
                self._publish(name, Told("progress", {"stage": "waiting"}))
                # It may have been failed with its worker.
                self._publish(name, Told("failed"))
            for heard in itertools.chain.from_iterable(self._watching.values()):
                tell(heard, ("", Told("refresh")))
            return
        if kind == "preview":
            place = values.pop("image")
            ids = ids[place : place + 1] if isinstance(place, int) else []
        self.metrics.heard(kind, ids, values)
        for one in ids:
            if called := self._names.get(one):
                known = values | self._left_over(called, values) if kind == "progress" else values
                self._publish(called, Told(kind, known, data))
            if kind in ENDED:
                self._begun.pop(called := self._names.pop(one, ""), None)
                self._owners.pop(called, None)

    def _left_over(self, name: str, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """How many seconds the stage of a job has still to go, by its speed so far: {"eta": ...}, or nothing."""
        stage, step, total, now = values.get("stage"), values.get("step"), values.get("total"), time.monotonic()
        if not isinstance(step, int) or not isinstance(total, int):
            return {}
        known, begun, first = self._begun.get(name, (None, now, step))
        if known != stage:
            self._begun[name] = (stage, now, step)
            return {}
        return {"eta": round((now - begun) / max(1, step - first) * (total - step), 2)} if step > first else {}

    def _publish(self, name: str, told: Told) -> None:
        early = [heard for heard, followed in self._from_the_start.items() if followed == name]
        for heard in (*early, *self._following.get(name, ())):
            heard.put_nowait(told)
        owner = self._owners.get(name)
        for one in list(self._watching.get(owner, ())) if owner is not None else ():
            if not tell(one, (name, told)):
                self._watching[owner].discard(one)  # type: ignore[index]


def _message(error: JsonValue) -> str:
    return str(error.get("message")) if isinstance(error, dict) else str(error)
