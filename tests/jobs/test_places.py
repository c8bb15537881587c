"""Where images go: folders, and addresses of fsspec."""

import json
import sys
from pathlib import Path

import fsspec
import pytest

import kandinsky
from kandinsky.core.errors import JobError, OutputError, RequestError
from kandinsky.core.locks import only_writer
from kandinsky.jobs import store
from kandinsky.jobs.batch import STORE, Settings, open_batch, plan
from kandinsky.jobs.places import open_place
from kandinsky.jobs.worker import Worker, WorkerOptions
from tests.jobs.test_batch import GIVEN, rows_of, sums


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_place_keeps_whole_files(kind: str, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path), "file": f"file://{tmp_path}/new", "memory": f"memory://{tmp_path.name}"}[kind]
    place = open_place(where)
    assert place.names() == set()
    place.write("a.png", b"one")
    place.write("a.png", b"two")
    place.write("b.png", b"")
    assert (place.read("a.png"), place.read("b.png"), place.read("c.png")) == (b"two", b"", None)
    assert place.names() == {"a.png", "b.png"}
    place.remove("a.png")
    place.remove("a.png")
    assert place.names() == {"b.png"}


def test_addresses_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="nowhere://a cannot be written to"):
        open_place("nowhere://a")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(RequestError, match=r"kandinsky-diffusion\[cluster\]"):
        open_place("memory://a")


@pytest.mark.parametrize("shards", [0, 2])
def test_a_list_goes_to_an_address_as_to_a_folder(tmp_path: Path, shards: int) -> None:
    pipe, settings = kandinsky.load(device="cpu"), Settings({"device": "cpu"}, "emoji", 2, shards=shards)
    out = f"memory://{tmp_path.name}-{shards}"

    def draw(batch: object, _: object) -> None:
        db = store.open_store(tmp_path / "ledger" / STORE)
        Worker(pipe, db, "w", WorkerOptions(str(tmp_path), out), lambda *_, **__: None).run()
        db.close()

    for _ in range(2):
        with open_batch(tmp_path / "ledger", settings, out) as opened:
            opened.add(plan(rows_of("a fox", "a house", "a tree"), pipe, settings, GIVEN).jobs)
            lost = opened.reopen_lost()
            opened.run(draw, lambda *_: None)
    assert lost == 0
    files = fsspec.filesystem("memory")
    held = {Path(one).name: files.cat(one) for one in files.ls(out.removeprefix("memory:/"), detail=False)}
    if shards:
        assert sorted(held) == ["shard-00000.tar", "shard-00001.tar"]
    else:
        assert sorted(held) == ["000001.png", "000002.png", "000003.png"]
        (tmp_path / "files").mkdir()
        for name, data in held.items():
            (tmp_path / "files" / name).write_bytes(data)
        said = [json.loads(line) for line in (tmp_path / "ledger" / "manifest.jsonl").read_text().splitlines()]
        assert {one["files"][0]["file"]: one["files"][0]["sha256"] for one in said} == sums(tmp_path / "files")
    with pytest.raises(JobError, match="was begun with out"), open_batch(tmp_path / "ledger", settings):
        pass


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(OutputError, match="Another process writes into")
    with only_writer(tmp_path), refused, only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").write_bytes(b"something else that is long enough to be no database" * 20)
    with pytest.raises(OutputError, match="no lock of ours"), only_writer(tmp_path / "other"):
        pass
