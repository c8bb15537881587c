"""A list on a Ray cluster: the images of any other run, whatever is lost on the way."""

import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kandinsky
from kandinsky.core.errors import JobError, RequestError
from kandinsky.engine.pipeline import Pipeline
from kandinsky.jobs import batch, cluster, store
from kandinsky.jobs.batch import Draw, Settings, by_processes, open_batch, plan
from kandinsky.jobs.cluster import Cluster, RayWorker, by_cluster
from tests.jobs.test_batch import GIVEN, manifest, rows_of, sums

PROMPTS = [f"a fox {i}" for i in range(9)]
SETTINGS = Settings({"device": "cpu"}, "emoji", 2)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return kandinsky.load(device="cpu")


def draw(folder: Path, pipe: Pipeline, by: Draw, hear: Callable[..., None] = lambda *_: None, **more: Any) -> None:
    with open_batch(folder, SETTINGS) as opened:
        opened.add(plan(rows_of(*PROMPTS, **more), pipe, SETTINGS, GIVEN).jobs)
        opened.run(by, hear)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_cluster_draws_the_same_images_though_an_actor_is_killed(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Actors and workers are processes of their own, with one thread each as Ray gives them.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw(tmp_path / "alone", pipe, by_processes([{}]))
    killed = set[int]()
    crashed: list[dict[str, Any]] = []

    def hear(header: dict[str, Any], _: bytes) -> None:
        if header["kind"] == "done" and not killed:
            killed.update(list(_actors())[:1])
            for one in killed:
                os.kill(one, signal.SIGKILL)
        if header["kind"] == "crashed":
            crashed.append(header)

    draw(tmp_path / "together", pipe, by_cluster(Cluster("local", 2, "cpu")), hear)
    assert killed
    assert sums(tmp_path / "together") == sums(tmp_path / "alone")
    assert len(sums(tmp_path / "alone")) == len(PROMPTS)
    assert manifest(tmp_path / "together") == manifest(tmp_path / "alone")
    with contextlib.closing(store.open_store(tmp_path / "together" / batch.STORE)) as db:
        assert [job.attempts for job in store.listed(db)] == [1] * len(PROMPTS)


def _actors() -> Iterator[int]:
    """Processes of actors that this process began, by way of others: tests beside it may have actors too."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().startswith(b"ray::RayWorker") and os.getpid() in _above(int(entry.parent.name)):
                yield int(entry.parent.name)


def _above(process: int) -> Iterator[int]:
    """The parent of a process, its parent, and so on."""
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        yield process


class Lost(Exception):  # noqa: N818  # as Ray names its own
    """What stands for the errors of Ray."""


class Here:
    """Stands for Ray: actors in this process, with one pipeline; prompts that kill, and a cluster's size."""

    def __init__(self, pipe: Pipeline, deadly: str = "", cpus: int = 2, loading: Exception | None = None) -> None:
        self.pipe, self.deadly, self.cpus, self.loading = pipe, deadly, cpus, loading
        self.exceptions = SimpleNamespace(RayError=Lost)
        self.begun = 0
        self.drawn = deque[list[int]]()

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def remote(self, **on: int) -> Callable[[type], Any]:
        assert on == {"num_cpus": 1}
        return lambda _: SimpleNamespace(remote=self._start)

    def _start(self, load: object, batch_size: int, version: str) -> Any:
        self.begun += 1
        worker = RayWorker.__new__(RayWorker)
        worker.pipe, worker.batch_size = self.pipe, batch_size
        calls = {"ready": self._load, "draw": lambda jobs: self._draw(worker, jobs)}
        return SimpleNamespace(**{name: SimpleNamespace(remote=_later(call)) for name, call in calls.items()})

    def _load(self) -> None:
        if self.loading is not None:
            raise self.loading

    def _draw(self, worker: RayWorker, jobs: dict[int, Any]) -> object:
        self.drawn.append(list(jobs))
        if any(job["request"]["prompt"] == self.deadly for job in jobs.values()):
            raise Lost("The actor died.\nIts node is gone.")
        return worker.draw(jobs)

    def wait(self, answers: list[Any]) -> tuple[list[Any], list[Any]]:
        return answers[:1], answers[1:]

    def get(self, answer: Any) -> Any:
        return answer()

    def kill(self, actor: Any) -> None:
        pass


def _later(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: lambda: call(*given)


@contextmanager
def _standing(ray: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_ray", lambda: ray)
        yield


def test_a_row_that_ends_its_actors_fails_alone(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Here(pipe, deadly="a fox 3")
    with _standing(ray, monkeypatch):
        draw(tmp_path / "out", pipe, by_cluster(Cluster("local", 2)))
    states = [one["state"] for one in manifest(tmp_path / "out")]
    assert states == ["done"] * 3 + ["failed"] + ["done"] * 5
    assert "ended its actor 2 times" in manifest(tmp_path / "out")[3]["error"]["message"]
    # Twice with its neighbour, then each by itself.
    assert [one for one in ray.drawn if 4 in one] == [[3, 4], [3, 4], [4]]
    assert [3] in ray.drawn
    assert ray.begun == 2 + 2  # nothing was left for one in the place of the last


def test_a_cluster_that_is_too_small_is_an_error(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _standing(Here(pipe, cpus=2), monkeypatch), pytest.raises(JobError, match="2 CPUs for 3 workers"):
        draw(tmp_path / "out", pipe, by_cluster(Cluster("local", 3)))


def test_a_model_that_no_actor_can_load_is_an_error(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Here(pipe, loading=Lost("The actor died.\nNo space left."))
    with _standing(ray, monkeypatch), pytest.raises(JobError, match=r"No actor could load the model: No space left\."):
        draw(tmp_path / "out", pipe, by_cluster(Cluster("local", 1)))
    error = Lost("The actor died.")
    error.cause = RequestError("No such model.", "Check it.")  # type: ignore[attr-defined]
    with (
        _standing(Here(pipe, loading=error), monkeypatch),
        pytest.raises(JobError, match="No such model") as caught,
    ):
        draw(tmp_path / "out", pipe, by_cluster(Cluster("local", 1)))
    assert caught.value.hint == "Check it."


def test_without_ray_the_extra_is_named(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"kandinsky-diffusion\[cluster\]"):
        draw(tmp_path / "out", pipe, by_cluster(Cluster("local")))
