"""Images that were sent lie on the server for as long as something needs them, and no longer."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from kandinsky.core import files
from kandinsky.jobs import store
from kandinsky.jobs.store import NewJob
from kandinsky.server import input_files
from kandinsky.server.documents import Documents
from kandinsky.server.errors import ApiError
from kandinsky.server.input_files import HURRY, InputFiles
from kandinsky.server.settings import ServerSettings
from tests.server.instant import Served, png, served

DAY = 24 * 3600
SMALL = {"prompt": "a fox", "steps": 2, "strength": 0.5}


def colour(value: int) -> tuple[int, int, int]:
    return value, 40, 40


def sent(small: Served, value: int) -> str:
    answer = small.send("POST", "/api/inputs", content=png(colour=colour(value)))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sha256"])


def there(small: Served) -> set[str]:
    return {path.stem for path in (small.settings.data / "inputs").rglob("*.png")}


def age(data: Path, seconds: float) -> None:
    for path in (data / "inputs").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


def asked(small: Served, sha: str, **more: Any) -> str:
    answer = small.send("POST", "/api/jobs", json={"request": {**SMALL, "image": {"sha256": sha}, **more}})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["jobs"][0]["id"])


def until(small: Served, name: str, state: str) -> None:
    deadline = time.monotonic() + 30
    while small.get(f"/api/jobs/{name}").json()["state"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_jobs_need_stays_and_all_else_goes_after_its_time(tmp_path: Path) -> None:
    with served(tmp_path) as small:
        drawn, deleted, failed = (sent(small, value) for value in (1, 2, 3))
        names = [asked(small, one) for one in (drawn, deleted)]
        for name in names:
            until(small, name, "done")
        assert small.send("DELETE", f"/api/jobs/{names[1]}").status_code == 204
        named = small.send("POST", "/api/jobs", json={"request": {**SMALL, "image": {"job": names[0]}}})
        until(small, named.json()["jobs"][0]["id"], "done")
        of_job = there(small) - {drawn, deleted, failed}
        edit = small.send("POST", "/v1/images/edits", data={"prompt": "x"}, files={"image": png(colour=colour(4))})
        assert edit.status_code == 200
        of_edit = there(small) - {drawn, deleted, failed} - of_job
        small.app.state.service.inputs.tidy(7 * DAY)
        assert there(small) == {drawn, deleted, failed} | of_job | of_edit
    gate = threading.Event()

    def held(job: Any) -> dict[str, Any] | None:
        gate.wait(60)
        return {"type": "RequestError", "message": "no", "hint": ""}

    with served(tmp_path, draw=held) as small:
        draft, looked = sent(small, 5), sent(small, 6)
        waiting = [sent(small, value) for value in (7, 8)]
        names = [asked(small, one) for one in waiting]
        until(small, names[0], "running")
        until(small, names[1], "queued")
        leftover = tmp_path / "inputs" / f".{'0' * 64}.png.x.part"
        leftover.write_bytes(b"half")
        age(tmp_path, 8 * DAY)
        seen = small.get(f"/api/inputs/{looked}")
        # A browser that answered for itself would look at it without the server's knowing.
        assert (seen.status_code, seen.headers["cache-control"]) == (200, "private, no-cache")
        young = sent(small, 9)
        small.app.state.service.inputs.tidy(7 * DAY)
        assert there(small) == {drawn, *of_job, *of_edit, looked, *waiting, young}
        assert not leftover.exists()
        gone = small.send("POST", "/api/jobs", json={"request": {**SMALL, "image": {"sha256": draft}}})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
        assert "send it again" in gone.json()["error"]["message"]
        gate.set()
        for name in names:
            until(small, name, "failed")
    age(tmp_path, 8 * DAY)
    # A server that starts looks for what nothing needs.
    with served(tmp_path) as small:
        deadline = time.monotonic() + 30
        while young in there(small):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert there(small) == {drawn, *of_job, *of_edit}


@pytest.fixture
def folder(tmp_path: Path) -> InputFiles:
    store.open_store(tmp_path / "jobs.db").close()
    (tmp_path / "inputs").mkdir()
    return InputFiles(ServerSettings(tmp_path), tmp_path / "jobs.db")


def test_an_image_that_is_used_while_others_are_removed_stays(
    folder: InputFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = folder.keep(Image.new("RGB", (8, 8), "red"), "ada")
    path = folder.folder / str(picture.path)
    age(tmp_path, 8 * DAY)
    found: list[Path | None] = []
    user = threading.Thread(target=lambda: found.append(folder.find("ada", picture.sha256)))
    unlink = Path.unlink

    def meanwhile(path: Path, *given: Any, **named: Any) -> None:
        # The file was found to be old: whoever uses it now is told that it is gone, or it stays.
        user.start()
        user.join(0.5)
        unlink(path, *given, **named)

    monkeypatch.setattr(Path, "unlink", meanwhile)
    folder.tidy(7 * DAY)
    user.join()
    assert len(found) == 1
    assert (found[0] is not None) == path.is_file()
    monkeypatch.undo()
    folder.keep(Image.new("RGB", (8, 8), "red"), "ada")
    age(tmp_path, 8 * DAY)
    assert folder.find("ada", picture.sha256) == path
    folder.tidy(7 * DAY)
    assert path.is_file()


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """What each of these returned or raised, all begun together."""
    begin = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        begin.wait()
        try:
            return task()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def test_many_tidy_and_write_at_once(folder: InputFiles, tmp_path: Path) -> None:
    for value in range(60):
        folder.keep(Image.new("RGB", (8, 8), colour(value)), "ada")
    age(tmp_path, 8 * DAY)

    def writing() -> None:
        for value in range(60, 120):
            folder.keep(Image.new("RGB", (8, 8), colour(value)), "ada")

    assert at_once(*[lambda: folder.tidy(7 * DAY)] * 4, writing) == [None] * 5
    left = list(folder.folder.rglob("*.png"))
    assert len(left) == 60
    assert folder._bytes == sum(path.stat().st_size for path in left)
    folder.tidy(7 * DAY)
    assert folder._bytes == sum(path.stat().st_size for path in left)


def test_a_file_that_vanishes_while_it_is_looked_at_is_gone(
    folder: InputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (folder.keep(Image.new("RGB", (8, 8), colour(value)), "ada") for value in (1, 2))
    stat = Path.stat

    def vanishing(path: Path, **named: Any) -> os.stat_result:
        if path.stem == first.sha256:
            path.unlink(missing_ok=True)
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", vanishing)
    folder.tidy(7 * DAY)
    monkeypatch.undo()
    assert folder._bytes == (folder.folder / str(second.path)).stat().st_size


def test_uploads_at_once_are_never_more_than_is_kept_and_look_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open_store(tmp_path / "jobs.db").close()
    (tmp_path / "inputs").mkdir()
    pictures = [Image.new("RGB", (8, 8), colour(value)) for value in range(12)]
    size = len(png(size=(8, 8), colour=colour(1)))
    found = InputFiles(ServerSettings(tmp_path, most_uploads=3 * size + size // 2), tmp_path / "jobs.db")
    looks, requests = [], store.requests
    monkeypatch.setattr(store, "requests", lambda *given, **named: looks.append(1) or requests(*given, **named))
    answers = at_once(*[lambda one=one: found.keep(one, "ada") for one in pictures])
    assert sum(isinstance(one, ApiError) for one in answers) == 9, answers
    assert len(list(found.folder.rglob("*.png"))) == 3
    assert len(looks) == 1
    # What could not be written gives its room back.
    found = InputFiles(ServerSettings(tmp_path, most_uploads=4 * size + size // 2), tmp_path / "jobs.db")
    with monkeypatch.context() as broken:
        broken.setattr(input_files, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            found.keep(Image.new("RGB", (8, 8), colour(100)), "ada")
    found.keep(Image.new("RGB", (8, 8), colour(101)), "ada")
    # A look that fails is not repeated for everyone who comes.
    monkeypatch.setattr(store, "requests", lambda *_, **named: looks.append(1) or (_ for _ in ()).throw(OSError("no")))
    found._looked -= 61
    looks.clear()
    answers = at_once(
        *[lambda value=value: found.keep(Image.new("RGB", (8, 8), colour(value)), "ada") for value in range(110, 114)]
    )
    assert all(isinstance(one, ApiError) for one in answers), answers
    assert len(looks) == 1


def test_a_document_that_is_removed_while_they_are_counted_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_ = Documents(tmp_path, "file-")
    first, second = files_.new("ada"), files_.new("ada")
    for document in (first, second):
        files_.write_content(document, b"four")
    stat = Path.stat

    def vanishing(path: Path, **named: Any) -> os.stat_result:
        files_.content(first).unlink(missing_ok=True)
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", vanishing)
    assert files_.size() == 4


KILLED = """
import os, pathlib, signal, sys
from kandinsky.server.input_files import InputFiles
from kandinsky.server.settings import ServerSettings
data, left, unlink = pathlib.Path(sys.argv[1]), [int(sys.argv[2])], pathlib.Path.unlink
def counted(path, *given, **named):
    unlink(path, *given, **named)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.unlink = counted
InputFiles(ServerSettings(data), data / "jobs.db").tidy(0.0)
"""


def test_a_kill_while_images_are_removed_takes_none_that_is_needed(folder: InputFiles, tmp_path: Path) -> None:
    pictures = [folder.keep(Image.new("RGB", (8, 8), colour(value)), "ada") for value in range(40)]
    needed = {one.sha256 for one in pictures[::4]}
    age(tmp_path, 1)
    db = store.open_store(tmp_path / "jobs.db")
    store.enqueue(db, [NewJob({"request": {"image": {"sha256": sha}}}) for sha in needed])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for removed in (1, 7, 20):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(removed)], env=environment, check=False
        )
        assert ended.returncode == -signal.SIGKILL
        assert needed <= {path.stem for path in folder.folder.rglob("*.png")}
    folder.tidy(0.0)
    assert {path.stem for path in folder.folder.rglob("*.png")} == needed
    store.check_integrity(db)
    db.close()


def test_more_than_is_kept_is_refused_by_name_until_there_is_room(tmp_path: Path) -> None:
    size = len(png(colour=colour(1)))
    with served(tmp_path, most_uploads=3 * size + size // 2) as small:
        inputs = small.app.state.service.inputs
        needed = sent(small, 1)
        until(small, asked(small, needed), "done")
        others = {sent(small, 2), sent(small, 3)}
        answer = small.send("POST", "/api/inputs", content=png(colour=colour(4)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "uploads_full")
        assert "MB are taken" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0
        edit = small.send("POST", "/v1/images/edits", data={"prompt": "x"}, files={"image": png(colour=colour(4))})
        assert edit.status_code == 507
        assert sent(small, 1) == needed  # what is there already needs no room
        age(tmp_path, HURRY + 1)
        inputs._looked -= 61  # as a minute later
        last = sent(small, 4)
        assert there(small) == {needed, last}
        assert not there(small) & others


def test_files_of_the_openai_api_have_an_end_too(tmp_path: Path) -> None:
    def send(small: Served) -> httpx2.Response:
        return small.send("POST", "/v1/files", files={"file": b"x" * 600}, data={"purpose": "vision"})

    with served(tmp_path, most_uploads=1000) as small:
        first = send(small)
        assert first.status_code == 200
        answer = send(small)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "uploads_full")
        assert len(list((tmp_path / "files").iterdir())) == 2, "a document and its content"
        assert small.send("DELETE", f"/v1/files/{first.json()['id']}").status_code == 200
        assert send(small).status_code == 200


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as small:
        whole = files.sync

        def full(path: Path) -> None:
            if tmp_path / "inputs" in path.parents or tmp_path / "files" in path.parents:
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(path)

        monkeypatch.setattr(files, "sync", full)
        answer = small.send("POST", "/api/inputs", content=png())
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert str(tmp_path) not in answer.text
        answer = small.send("POST", "/v1/files", files={"file": png()}, data={"purpose": "vision"})
        assert answer.status_code == 507
        assert not [path for path in (tmp_path / "inputs").rglob("*") if path.is_file()]
        monkeypatch.undo()
        assert len(sent(small, 1)) == 64


def test_a_limit_without_a_server(tmp_path: Path) -> None:
    store.open_store(tmp_path / "jobs.db").close()
    (tmp_path / "inputs").mkdir()
    found = InputFiles(ServerSettings(tmp_path, most_uploads=10), tmp_path / "jobs.db")
    with pytest.raises(ApiError, match="MB are taken"):
        found.keep(Image.new("RGB", (8, 8)), "ada")
