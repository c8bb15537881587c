"""A server on the loopback with a worker of its own, for all tests of a file."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from kandinsky.server.app import make_app
from kandinsky.server.settings import ServerSettings, owners_of

TOKENS = {"ada": "ada-token-of-16-and-more", "bob": "bob-token-of-16-and-more"}


class Running:
    """A server that runs, and where."""

    def __init__(self, settings: ServerSettings, port: int) -> None:
        self.settings, self.port, self.url = settings, port, f"http://127.0.0.1:{port}"

    def get(self, path: str, owner: str = "ada", **given: Any) -> httpx2.Response:
        return self.send("GET", path, owner, **given)

    def send(self, method: str, path: str, owner: str = "ada", **given: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {TOKENS.get(owner, owner)}", **given.pop("headers", {})}
        return httpx2.request(method, f"{self.url}{path}", headers=headers, timeout=120, **given)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("data")) as found:
        yield found


@contextmanager
def serving(data: Path, **load: Any) -> Iterator[Running]:
    """A server with its data in a folder, once it is ready."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    tokens = owners_of([f"{name}={token}" for name, token in TOKENS.items()])
    settings = ServerSettings(data, {"device": "cpu", **load}, port=port, owners=tokens, batch_size=4, most_queued=40)
    running = uvicorn.Server(uvicorn.Config(make_app(settings), port=port, log_level="error"))
    thread = threading.Thread(target=running.run)
    thread.start()
    found_ = Running(settings, port)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if found_.get("/readyz").status_code == 200:
                break
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    else:
        pytest.fail(f"not ready: {found_.get('/readyz').text}")
    yield found_
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
