"""Whatever is killed, every job that was acknowledged is drawn, and drawn once."""

import contextlib
import hashlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest

from kandinsky.jobs import store
from tests.cli.test_batch import child_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """`kandinsky serve` as a process, which ends with its test at the latest."""

    begun: ClassVar[list["Server"]] = []

    def __init__(self, data: Path, port: int) -> None:
        self.data = data
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        flags = ["--data", str(data), "--port", str(port), "--device", "cpu", "--batch-size", "2"]
        self.process = subprocess.Popen([sys.executable, "-m", "kandinsky", "serve", *flags], env=environment)
        self.url = f"http://127.0.0.1:{port}"
        self.begun.append(self)

    def wait(self, path: str = "/healthz") -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            assert self.process.poll() is None
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}{path}", timeout=30).status_code == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"{path} does not answer")

    def ask(self, seed: int) -> str | None:
        """Asks for an image; its name, or None where no answer came."""
        request: dict[str, Any] = {"prompt": "a fox", "seed": seed, "steps": 60, "prior_steps": 1}
        with contextlib.suppress(httpx2.TransportError):
            answer = httpx2.post(f"{self.url}/api/jobs", json={"request": request}, timeout=30)
            if answer.status_code == 202:
                name: str = answer.json()["jobs"][0]["id"]
                return name
        return None

    def wait_for_more_images(self, names: list[str]) -> None:
        """Waits until one of the jobs more is drawn."""
        before, deadline = len(self.drawn(names)), time.monotonic() + 300
        while len(self.drawn(names)) == before:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def drawn(self, names: list[str]) -> set[str]:
        """Those of the jobs whose images lie there, whole."""
        return {path.stem for path in (self.data / "images").glob("*.png")} & set(names)

    def states_at_the_end(self, names: list[str]) -> list[str]:
        """The states of jobs once they have ended."""
        states = [""]
        while any(state not in ("done", "failed", "cancelled") for state in states):
            answers = [httpx2.get(f"{self.url}/api/jobs/{name}", timeout=30) for name in names]
            states = [str(answer.json()["state"]) for answer in answers]
            time.sleep(0.2)
        return states

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    while Server.begun:
        Server.begun.pop().kill()


@pytest.mark.parametrize(("jobs", "kills"), [(12, 3), pytest.param(200, 50, marks=pytest.mark.slow)])
def test_kills_of_the_server_lose_and_repeat_nothing(tmp_path: Path, jobs: int, kills: int) -> None:
    """Kills take turns: one at any moment after the start, one at any moment after an image more is drawn."""
    draw, port, seeds = random.Random(kills), free_port(), iter(range(10**6))
    data, amid = tmp_path / "data", 0
    acknowledged: list[str] = []
    for kill in range(kills):
        server = Server(data, port)
        server.wait()
        for _ in range(min(jobs - len(acknowledged), -(-jobs // kills))):
            if (name := server.ask(next(seeds))) is not None:
                acknowledged.append(name)
        if kill % 2:
            server.wait_for_more_images(acknowledged)
        time.sleep(draw.uniform(0, 0.3 if kill % 2 else 3))
        # Before the kill: after it the workers soon give back what they draw.
        with contextlib.closing(store.open_store(data / "jobs.db")) as db:
            amid += store.counts(db)["running"] > 0
        server.kill()
    print(f"{amid} of {kills} kills came while an image was drawn")
    assert amid >= kills // 3
    server = Server(data, port)
    server.wait("/readyz")
    while len(acknowledged) < jobs:
        acknowledged.append(server.ask(next(seeds)) or "")
    assert server.states_at_the_end(acknowledged) == ["done"] * jobs
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(data / "jobs.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        done = {job.name: job for job in store.listed(db, "done")}
        assert store.counts(db)["queued"] == store.counts(db)["running"] == 0
    assert set(acknowledged) <= set(done)
    kept = {f"{name}.png": said_of(job) for name, job in done.items()}
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (data / "images").iterdir()} == kept


def said_of(job: store.Job) -> str:
    """The digest that a job's result says of its only image."""
    assert isinstance(job.result, list)
    (one,) = job.result
    assert isinstance(one, dict)
    return str(one["sha256"])


def test_a_killed_worker_draws_its_job_once_more(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", free_port())
    try:
        server.wait("/readyz")
        names = [server.ask(seed) for seed in range(6)]
        worker = child_of(server.process.pid)
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert server.states_at_the_end([name or "" for name in names]) == ["done"] * 6
        assert server.process.poll() is None
        with contextlib.closing(store.open_store(tmp_path / "data" / "jobs.db")) as db:
            assert max(job.attempts for job in store.listed(db)) <= 2
    finally:
        server.kill()


def test_a_folder_is_for_one_server(tmp_path: Path) -> None:
    first = Server(tmp_path / "data", free_port())
    try:
        first.wait()
        second = Server(tmp_path / "data", free_port())
        assert second.process.wait(120) != 0
    finally:
        first.kill()
