"""Workers: what they draw, what they tell, and how they end."""

import contextlib
import hashlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import kandinsky
from kandinsky.core.errors import JobError, OutputError
from kandinsky.core.events import Event
from kandinsky.core.metadata import read_metadata
from kandinsky.core.requests import Request
from kandinsky.engine.pipeline import Pipeline
from kandinsky.jobs import store, supervisor
from kandinsky.jobs import worker as jobs_worker
from kandinsky.jobs.drawing import job_request
from kandinsky.jobs.store import NewJob
from kandinsky.jobs.worker import Worker, WorkerOptions, frame, read_frame

QUICK = {"steps": 2, "prior_steps": 1}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return kandinsky.load(device="cpu")


class Heard:
    """What a worker told."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    def __call__(self, kind: str, data: bytes = b"", **values: Any) -> None:
        self.frames.append({"kind": kind, "data": data, **values})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.frames if one["kind"] == kind]


@pytest.fixture(autouse=True)
def every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_worker, "PROGRESS_SECONDS", 0.0)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(store.open_store(tmp_path / "jobs.db")) as found:
        yield found


def worker(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path, **options: Any) -> tuple[Worker, Heard]:
    heard = Heard()
    return Worker(pipe, db, "w", WorkerOptions(str(tmp_path / "jobs.db"), str(tmp_path), **options), heard), heard


def jobs_of(*prompts: str, **fields: Any) -> list[NewJob]:
    return [
        NewJob(job_request(Request(prompt, seed=seed, **(QUICK | fields)), [f"{seed}.png"]), name=str(seed))
        for seed, prompt in enumerate(prompts)
    ]


def states(db: sqlite3.Connection) -> list[str]:
    return [job.state for job in store.listed(db)]


def test_jobs_become_files_that_repeat_them(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox", "a house"))
    drawn, heard = worker(pipe, db, tmp_path)
    drawn.run()
    assert states(db) == ["done", "done"]
    for seed, prompt in enumerate(("a fox", "a house")):
        path = tmp_path / f"{seed}.png"
        (said,) = store.get(db, seed + 1).result  # type: ignore[misc]
        assert said == {
            "file": f"{seed}.png",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "seed": seed,
            "size": [64, 64],
        }
        kept = read_metadata(path)
        assert (kept.request["prompt"], kept.request["seed"], kept.model) == (prompt, seed, "emoji")
        expected = pipe.generate(prompt, seed=seed, **QUICK).images[0]
        assert Image.open(path).tobytes() == expected.tobytes()
    kinds = [one["kind"] for one in heard.frames]
    assert kinds.count("claimed") == kinds.count("done") == 2
    assert heard.of("progress")[-1] == {"kind": "progress", "data": b"", "jobs": [2], "stage": "decoding"}


def test_a_batch_is_finished_as_a_whole(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox", "a house", "a tree"))
    drawn, heard = worker(pipe, db, tmp_path, claim=3, batch_size=3, previews=1)
    drawn.run()
    assert heard.of("done") == [{"kind": "done", "data": b"", "jobs": [1, 2, 3]}]
    assert read_metadata(tmp_path / "1.png").batch == 3
    previews = heard.of("preview")
    assert [one["image"] for one in previews] == [0, 1, 2] * 2
    assert all(len(one["data"]) == one["width"] * one["height"] * 3 for one in previews)


def test_a_request_that_fails_fails_alone(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    jobs = jobs_of("a fox", "a house", "a tree")
    wrong = jobs_of("a cat", hint=Image.new("RGB", (64, 64)))[0]
    store.enqueue(db, [*jobs[:2], NewJob(wrong.request), jobs[2]])
    drawn, heard = worker(pipe, db, tmp_path, claim=4)
    drawn.run()
    assert states(db) == ["done", "done", "failed", "done"]
    error = store.get(db, 3).error
    assert isinstance(error, dict)
    assert error["type"] == "RequestError"
    assert len(heard.of("failed")) == 1


class Breaking:
    """A pipeline that fails on some prompts, or that has memory for a few images only."""

    def __init__(self, pipe: Pipeline, prompt: str = "", room: int = 99) -> None:
        self.pipe, self.prompt, self.room, self.sizes = pipe, prompt, room, list[int]()
        self.batch_size, self.model_id, self.checked = 4, pipe.model_id, pipe.checked
        self.loras = pipe.loras

    def stream_batch(self, requests: list[Request], size: int) -> Iterator[Event]:
        self.sizes.append(min(size, len(requests)))
        if self.sizes[-1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        if any(request.prompts[0] == self.prompt for request in requests):
            raise RuntimeError("a bug of ours")
        yield from self.pipe.stream_batch(requests, size)


def test_without_memory_the_batch_is_halved(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of(*["a fox"] * 4))
    breaking = Breaking(pipe, room=1)
    # With room for one image, four then two at a time fail.
    breaking.stream_batch = lambda requests, size: _roomy(breaking, requests, size)  # type: ignore[method-assign]
    drawn, heard = worker(breaking, db, tmp_path, claim=4)  # type: ignore[arg-type]
    drawn.run()
    assert states(db) == ["done"] * 4
    assert breaking.sizes == [4, 2, 1]
    assert len(heard.of("warned")) == 2


def _roomy(breaking: Breaking, requests: list[Request], size: int) -> Iterator[Event]:
    breaking.sizes.append(size)
    if size > breaking.room:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    yield from breaking.pipe.stream_batch(requests, size)


def test_what_no_memory_is_enough_for_fails(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox"))
    drawn, _ = worker(Breaking(pipe, room=0), db, tmp_path)  # type: ignore[arg-type]
    drawn.run()
    error = store.get(db, 1).error
    assert isinstance(error, dict)
    assert error["type"] == "out of memory"


def test_a_bug_fails_its_job_alone(
    pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.enqueue(db, jobs_of("a fox", "a bug", "a house"))
    drawn, _ = worker(Breaking(pipe, "a bug"), db, tmp_path, claim=3)  # type: ignore[arg-type]
    drawn.run()
    assert states(db) == ["done", "failed", "done"]
    error = store.get(db, 2).error
    assert error == {"type": "RuntimeError", "message": "RuntimeError: a bug of ours", "hint": ""}
    assert "a bug of ours" in capsys.readouterr().err


def test_a_folder_that_takes_no_image_is_no_fault_of_the_job(
    pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path
) -> None:
    store.enqueue(db, jobs_of("a fox", "a house"))
    (tmp_path / "0.png").mkdir()
    drawn, heard = worker(pipe, db, tmp_path)
    with pytest.raises(OutputError, match=r"0\.png cannot be written"):
        drawn.run()
    assert states(db) == ["queued", "queued"]
    assert not heard.of("failed")
    with pytest.raises(JobError, match=r"0\.png cannot be written"):
        supervisor.run([options(tmp_path)], lambda *_: None)


def test_of_quick_steps_some_are_told(
    pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.enqueue(db, jobs_of("a fox", steps=8, prior_steps=2))
    monkeypatch.setattr(jobs_worker, "PROGRESS_SECONDS", 3600.0)
    drawn, heard = worker(pipe, db, tmp_path)
    drawn.run()
    told = [(one["stage"], one.get("step")) for one in heard.of("progress")]
    assert told[1:] == [("prior", 1), ("prior", 2), ("decoder", 1), ("decoder", 8), ("decoding", None)]
    assert drawn.progress == {"stage": "decoding"}


def test_cancelling_acts_at_the_next_step(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox", "a house", steps=8))
    drawn, heard = worker(pipe, db, tmp_path, claim=1)
    steps: list[int] = []

    def tell(kind: str, data: bytes = b"", **values: Any) -> None:
        heard(kind, data, **values)
        if kind == "progress" and values["jobs"] == [1] and values["stage"] == "decoder":
            steps.append(values["step"])
            if values["step"] == 3:
                store.cancel(db, [1])

    drawn.tell = tell
    drawn.run()
    assert steps == [1, 2, 3]
    assert states(db) == ["cancelled", "done"]
    assert not (tmp_path / "0.png").exists()


def test_one_of_a_batch_is_cancelled_and_the_others_go_on(
    pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path
) -> None:
    store.enqueue(db, jobs_of("a fox", "a house"))
    drawn, heard = worker(pipe, db, tmp_path, claim=2, batch_size=2)
    drawn.tell = lambda kind, data=b"", **values: (heard(kind, data, **values), store.cancel(db, [1]))
    drawn.run()
    assert states(db) == ["cancelled", "done"]
    assert [path.name for path in tmp_path.glob("*.png")] == ["1.png"]


def test_told_to_stop_it_gives_its_jobs_back(pipe: Pipeline, db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox", "a house", steps=8))
    drawn, heard = worker(pipe, db, tmp_path)

    def tell(kind: str, data: bytes = b"", **values: Any) -> None:
        heard(kind, data, **values)
        if values.get("step") == 3:
            drawn.stopping.set()

    drawn.tell = tell
    drawn.run()
    assert states(db) == ["queued", "queued"]
    assert [one["step"] for one in heard.of("progress") if one["stage"] == "decoder"] == [1, 2, 3]


def test_frames_come_through_a_pipe_as_they_were() -> None:
    pipe = io.BytesIO()
    tell = frame(pipe, threading.Lock())
    tell("preview", b"\n\x00{raw}", jobs=[1])
    tell("done", jobs=[2])
    data = pipe.getvalue()
    stream = io.BytesIO(data)
    assert read_frame(stream) == ({"kind": "preview", "jobs": [1], "bytes": 7}, b"\n\x00{raw}")
    assert read_frame(stream) == ({"kind": "done", "jobs": [2]}, b"")
    assert read_frame(stream) is None
    assert read_frame(io.BytesIO(data[:50])) is None


def options(tmp_path: Path, **more: Any) -> WorkerOptions:
    return WorkerOptions(str(tmp_path / "jobs.db"), str(tmp_path), {"device": "cpu"}, **more)


def test_processes_draw_everything_once(db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of(*["a fox"] * 6))
    heard: list[dict[str, Any]] = []
    supervisor.run([options(tmp_path)] * 2, lambda header, _: heard.append(header))
    assert states(db) == ["done"] * 6
    assert sum(one["kind"] == "done" for one in heard) == 6
    assert all(job.attempts == 1 for job in store.listed(db))


def test_a_job_that_ends_its_worker_twice_is_failed(db: sqlite3.Connection, tmp_path: Path) -> None:
    prompts = ("a fox", "a house", "a tree")
    first, _, last = jobs_of(*prompts, steps=6)
    deadly = jobs_of(*prompts, steps=500)[1]  # it is not to end before its worker
    store.enqueue(db, [first, deadly, last])
    workers: dict[str, int] = {}

    def hear(header: dict[str, Any], _: bytes) -> None:
        if header["kind"] == "ready":
            workers["now"] = int(header["worker"].partition("-")[0])
        if header["kind"] == "progress" and header["jobs"] == [2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers["now"], signal.SIGKILL)

    supervisor.run([options(tmp_path)], hear)
    assert states(db) == ["done", "failed", "done"]
    assert store.get(db, 2).crashes == 2


def test_a_model_that_cannot_be_loaded_is_an_error_at_once(db: sqlite3.Connection, tmp_path: Path) -> None:
    store.enqueue(db, jobs_of("a fox"))
    wrong = WorkerOptions(str(tmp_path / "jobs.db"), str(tmp_path), {"model": str(tmp_path / "nothing")})
    with pytest.raises(JobError, match="nothing"):
        supervisor.run([wrong], lambda *_: None)
    assert states(db) == ["queued"]


@pytest.mark.parametrize("how", ["SIGTERM", "its parent is gone"])
def test_a_process_that_is_told_to_stop_leaves_no_lease(db: sqlite3.Connection, tmp_path: Path, how: str) -> None:
    store.enqueue(db, jobs_of("a fox", steps=500))
    command = [sys.executable, "-m", "kandinsky.jobs.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(options(tmp_path).to_json().encode() + b"\n")
        process.stdin.flush()
        while (found := read_frame(process.stdout)) is not None:
            if found[0].get("stage") == "decoder":
                if how == "SIGTERM":
                    process.terminate()
                else:
                    process.stdin.close()
        assert process.wait() == (0 if how == "SIGTERM" else 3)
    assert states(db) == ["queued"]
    assert store.get(db, 1).crashes == 0


def test_what_a_library_prints_is_no_frame(tmp_path: Path) -> None:
    code = (
        "import sys, kandinsky, kandinsky.jobs.worker as w\n"
        "real = kandinsky.load\n"
        "kandinsky.load = lambda **o: (print('{noise'), real(**o))[1]\n"
        "w.main()\n"
    )
    store.enqueue(store.open_store(tmp_path / "jobs.db"), jobs_of("a fox"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(options(tmp_path).to_json().encode() + b"\n")
        process.stdin.flush()
        frames = [found[0]["kind"] for found in iter(lambda: read_frame(process.stdout), None)]
        assert (frames[0], frames[-1]) == ("ready", "stopped")
        assert b"{noise" in process.stderr.read()
