"""A server whose images cost nothing: queue, HTTP and files are real, and drawing is a pause and a grey square.

What is tested with it is who may ask for what, how much, and in which order; images are tested elsewhere.
"""

import contextlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from kandinsky.core.files import write_atomically
from kandinsky.core.metadata import Metadata, encode_image
from kandinsky.jobs import store
from kandinsky.jobs.drawing import outputs_of
from kandinsky.jobs.store import Job
from kandinsky.jobs.worker import WorkerOptions
from kandinsky.server.app import make_app
from kandinsky.server.connections import server_of
from kandinsky.server.queueing import NOBODY
from kandinsky.server.settings import ServerSettings, owners_of

CANARY = "canary-5f2c91"
TOKENS = {"ada": "ada-token-of-16-and-more", "bob": "bob-token-of-16-and-more"}
CLIENT = httpx2.Client(timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))
"""One for all: making one takes longer than an answer."""
Draw = Callable[[Job], dict[str, Any] | None]
"""What becomes of a job: None where it is drawn, an error where it fails."""


class Instant:
    """In the place of `Supervisor`: one thread that claims, writes squares and tells."""

    seconds = 0.0
    draw: Draw = staticmethod(lambda job: None)
    drawn: list[Job]

    def __init__(self, options: Sequence[WorkerOptions], on_message: Callable[..., None]) -> None:
        self.options, self.on_message = options[0], on_message
        self.waking, self.stopping = threading.Event(), threading.Event()
        self.seconds, self.draw = type(self).seconds, type(self).draw

    def run(self) -> None:
        db = store.open_store(self.options.path)
        while not self.stopping.is_set():
            jobs = store.claim(db, "instant", 1)
            if not jobs:
                self.waking.wait(0.02)
                self.waking.clear()
            for job in jobs:
                self._end(db, job)
        db.close()

    def _end(self, db: Any, job: Job) -> None:
        assert isinstance(job.request, dict)
        request: Any = job.request["request"]
        self.on_message({"kind": "progress", "jobs": [job.id], "stage": "decoder", "step": 1, "total": 2}, b"")
        if job.request.get("previews"):
            grey = {"kind": "preview", "jobs": [job.id], "step": 1, "width": 8, "height": 8, "image": 0}
            self.on_message(grey, b"\x80" * 192)
        until = time.monotonic() + self.seconds
        while True:
            if gone := store.cancelled(db, "instant"):
                store.drop(db, "instant", gone)
                self.on_message({"kind": "cancelled", "jobs": [job.id]}, b"")
                return
            if time.monotonic() >= until or self.stopping.wait(0.005):
                break
        if self.stopping.is_set():
            store.give_back(db, "instant")
            return
        error = None if job.owner == NOBODY else self.draw(job)
        if error is not None:
            store.fail(db, "instant", {job.id: error})
            self.on_message({"kind": "failed", "jobs": [job.id], "error": error}, b"")
            return
        (name,) = outputs_of(job.request)
        size = min(request["width"], 64), min(request["height"], 64)
        image = Image.new("RGB", size, (128, 128, 128))
        write_atomically(Path(self.options.folder, name), encode_image(image, name, Metadata(request, "emoji")))
        said = {"file": name, "sha256": "", "seed": request["seed"], "size": [*size]}
        if store.finish(db, "instant", {job.id: [said]}):  # type: ignore[list-item]
            self.on_message({"kind": "done", "jobs": [job.id]}, b"")

    def wake(self) -> None:
        self.waking.set()

    def stop(self) -> None:
        self.stopping.set()
        self.waking.set()


class Served:
    """A server that runs, and where."""

    def __init__(self, settings: ServerSettings, app: Any, running: Any) -> None:
        self.settings, self.app, self.running = settings, app, running
        self.port, self.url = settings.port, f"http://127.0.0.1:{settings.port}"

    def send(self, method: str, path: str, owner: str | None = "ada", **given: Any) -> httpx2.Response:
        headers = {} if owner is None else {"authorization": f"Bearer {TOKENS.get(owner, owner)}"}
        headers |= given.pop("headers", {})
        CLIENT.cookies.clear()
        return CLIENT.request(method, f"{self.url}{path}", headers=headers, **given)

    def get(self, path: str, owner: str | None = "ada", **given: Any) -> httpx2.Response:
        return self.send("GET", path, owner, **given)

    def raw(self, text: bytes, seconds: float = 30.0) -> bytes:
        """What comes back for these bytes until the server closes, or a while has passed."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(seconds)
            with contextlib.suppress(OSError):
                connection.sendall(text)
            found = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    found += part
                    if b"\r\n\r\n" in found and b"connection: close" not in found.lower():
                        connection.settimeout(0.3)
            return found

    def head(self, method: str, path: str, *more: str, owner: str = "ada") -> str:
        """The head of a request by hand."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {TOKENS[owner]}"]
        return "\r\n".join([*lines, *more, "", ""])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def served(
    data: Path,
    *,
    seconds: float = 0.0,
    draw: Draw = lambda job: None,
    owners: Sequence[str] | None = (),
    **settings: Any,
) -> Iterator[Served]:
    """A server that runs while this is open, each of whose images takes so many seconds; without `owners` for all."""
    known = [f"{name}={token}" for name, token in TOKENS.items()]
    tokens = {} if owners is None else owners_of([*known, *owners])
    port = free_port()
    made = ServerSettings(data, {"device": "cpu"}, port=port, owners=tokens, **settings)
    kind = type("Instant", (Instant,), {"seconds": seconds, "draw": staticmethod(draw)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kandinsky.server.service.Supervisor", kind)
        app = make_app(made)
        running = server_of(app, "127.0.0.1", port, made.drain, app.state.service.drain)
        thread = threading.Thread(target=running.run)
        thread.start()
        found = Served(made, app, running)
        try:
            deadline = time.monotonic() + 120
            while True:
                assert thread.is_alive(), "the server has ended"
                with contextlib.suppress(httpx2.TransportError):
                    if found.get("/readyz").status_code == 200:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield found
        finally:
            running.should_exit = True
            thread.join(90)
            assert not thread.is_alive()


@contextlib.contextmanager
def among_canaries(folder: Path) -> Iterator[Served]:
    """A server with files in and around its folder, and links to them, whose content nobody may see."""
    data = folder / "data"
    for place in (folder, data, data / "images", data / "files"):
        place.mkdir(exist_ok=True)
        for suffix in ("", ".png", ".json", ".data"):
            (place / f"canary{suffix}").write_text(CANARY)
    os.symlink(folder / "canary", data / "files" / f"file-{'a' * 32}.data")
    os.symlink(folder / "canary.png", data / "images" / f"{'b' * 32}.png")
    with served(data) as found:
        yield found


def png(size: tuple[int, int] = (64, 64), colour: tuple[int, ...] = (200, 30, 30)) -> bytes:
    made = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(made, "PNG")
    return made.getvalue()


def routes(served: Served) -> list[tuple[str, str]]:
    """Every method and path that the server says it has."""
    paths = json.loads(served.get("/openapi.json").text)["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]
