"""A server that cannot begin says why in one line, and leaves nothing running."""

import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kandinsky.cli.main import run
from kandinsky.core.errors import JobError, RequestError
from kandinsky.core.locks import only_writer
from kandinsky.jobs import store
from kandinsky.server.connections import bound
from kandinsky.server.errors import api_error, disk_is_full
from kandinsky.server.settings import owners_of
from tests.server.instant import free_port

Start = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Start]:
    """What `kandinsky serve` says when it cannot begin, in one line behind its note."""

    def started(*flags: object, port: int = 0) -> str:
        threads = threading.active_count()
        with pytest.raises(SystemExit) as ended:
            run(["serve", "--port", str(port or free_port()), "--device", "cpu", *map(str, flags)])
        said = capsys.readouterr().err
        assert ended.value.code == 1
        assert "Traceback" not in said
        assert threading.active_count() <= threads
        (line,) = [line for line in said.splitlines() if not line.startswith("note: ")]
        return line

    yield started
    for name in ("kandinsky.server", "uvicorn"):
        logging.getLogger(name).handlers = []


def test_a_folder_that_another_server_has(refused: Start, tmp_path: Path) -> None:
    with only_writer(tmp_path):
        assert f"Another process writes into {tmp_path}" in refused("--data", tmp_path)


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_that_is_a_file(refused: Start, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "cannot be made, or written into" in refused("--data", tmp_path / "file" / below)


def test_a_store_that_is_none(refused: Start, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"this is no database at all" * 100)
    assert "jobs.db" in refused("--data", tmp_path)


def test_the_folder_of_a_batch(refused: Start, tmp_path: Path) -> None:
    with contextlib.closing(store.open_store(tmp_path / "jobs.db")) as db:
        store.note(db, {"model": "emoji"})
        (job,) = store.enqueue(db, [store.NewJob({}, name="1")])
        store.claim(db, "w")
        store.finish(db, "w", {job: []})
    assert "holds a batch" in refused("--data", tmp_path)
    with contextlib.closing(store.open_store(tmp_path / "jobs.db")) as db:
        assert store.counts(db)["done"] == 1


def test_a_token_without_a_name_or_with_none_to_see() -> None:
    for text in ("=" + "t" * 20, " =" + "t" * 20):
        with pytest.raises(RequestError, match="says nothing"):
            owners_of([text])


def test_a_full_disk_is_known_however_it_is_said(tmp_path: Path) -> None:
    with contextlib.closing(store.open_store(tmp_path / "jobs.db")) as db:
        db.execute("PRAGMA max_page_count = 30")
        with pytest.raises(JobError) as full:
            store.enqueue(db, [store.NewJob({"prompt": "x" * 10**6})])
    assert (api_error(full.value).status, api_error(full.value).code) == (507, "disk_full")
    assert disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert not disk_is_full(OSError(errno.EACCES, "Permission denied"))
    assert api_error(JobError("The store is locked.", "Try again.")).status == 503


def test_all_addresses_of_a_host_are_listened_at() -> None:
    with bound("localhost", free_port()) as found:
        assert {one.getsockname()[0] for one in found} == {one[4][0] for one in socket.getaddrinfo("localhost", 80)}


def test_a_model_and_an_adapter_that_are_not_there(refused: Start, tmp_path: Path) -> None:
    assert "nosuch" in refused("--data", tmp_path / "a", "--model", "nosuch")
    assert "none.safetensors" in refused("--data", tmp_path / "b", "--lora", tmp_path / "none.safetensors")


def test_a_port_that_is_taken_and_a_host_that_is_elsewhere(refused: Start, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        said = refused("--data", tmp_path, port=taken.getsockname()[1])
        assert "cannot be listened at (Address already in use). Give another --port" in said
    assert "is no address of this machine" in refused("--data", tmp_path, "--host", "a..b", "--token", "t" * 20)
    token = ("--token", "t" * 20)
    assert "is no address of this machine" in refused("--data", tmp_path, "--host", "no.such.host.invalid", *token)
    assert "cannot be listened at" in refused("--data", tmp_path, "--host", "192.0.2.77", *token)
