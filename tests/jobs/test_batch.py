"""A list and a folder: every row once, whatever happens in between."""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kandinsky
from kandinsky.core.errors import JobError, OutputError
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.pipeline import Pipeline
from kandinsky.jobs import batch, store, supervisor
from kandinsky.jobs.batch import Batch, Settings, open_batch, plan
from kandinsky.jobs.rows import Row, RowError
from kandinsky.jobs.worker import Worker, WorkerOptions
from tests.families import mostly_slow

SETTINGS = Settings({"device": "cpu"}, "emoji", 2)
GIVEN = {"steps": 1, "prior_steps": 1}
PROMPTS = ["a fox", "a house", "a tree", "a cat", "a car"]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return kandinsky.load(device="cpu")


class Broken(KeyboardInterrupt):
    """Stands for a stop in the middle."""


@pytest.fixture(autouse=True)
def here(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers draw in this process, with a pipeline that is loaded once."""

    def run(options: Sequence[WorkerOptions], on_message: supervisor.Listener) -> None:
        db = store.open_store(options[0].path)
        tell = lambda kind, data=b"", **values: on_message({"kind": kind, **values}, data)  # noqa: E731
        try:
            Worker(pipe, db, "w", options[0], tell).run()
        finally:
            db.close()

    monkeypatch.setattr(supervisor, "run", run)


def rows_of(*prompts: str, **more: Any) -> list[Row]:
    return [Row(line, {"prompt": prompt, **more}, Path()) for line, prompt in enumerate(prompts, start=1)]


def begun(found: Batch, pipe: Pipeline, rows: list[Row], **given: Any) -> int:
    return found.add(plan(rows, pipe, found.settings, {**GIVEN, **given}).jobs)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


def draw(
    folder: Path, pipe: Pipeline, rows: list[Row], settings: Settings = SETTINGS, stop_at: int | None = None
) -> None:
    said = 0

    def hear(header: dict[str, Any], _: bytes) -> None:
        nonlocal said
        said += 1
        if said == stop_at:
            raise Broken

    with open_batch(folder, settings) as found:
        begun(found, pipe, rows)
        found.reopen_lost()
        found.run(batch.by_processes([{}]), hear)


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / batch.MANIFEST).read_text().splitlines()]


def test_rows_become_files_and_a_manifest(pipe: Pipeline, tmp_path: Path) -> None:
    rows = [*rows_of("a fox"), Row(2, {"id": "two", "prompt": "a house", "count": 2, "seed": 40}, Path())]
    draw(tmp_path / "out", pipe, rows)
    files = sums(tmp_path / "out")
    assert sorted(files) == ["000001.png", "two-0001.png", "two-0002.png"]
    one, two = manifest(tmp_path / "out")
    assert one == {
        "id": "000001",
        "state": "done",
        "prompt": "a fox",
        "files": [{"file": "000001.png", "sha256": files["000001.png"], "seed": 0, "size": [64, 64]}],
    }
    assert [(said["file"], said["seed"]) for said in two["files"]] == [("two-0001.png", 40), ("two-0002.png", 41)]


def test_plans_need_no_weights(pipe: Pipeline) -> None:
    rows = [*rows_of(*PROMPTS), Row(6, {"prompt": "small", "width": 32, "height": 32}, Path())]
    made = plan(rows, meta_model("emoji"), SETTINGS, GIVEN, seed=5)
    assert (made.images, made.batches) == (6, 4)
    assert [job.group for job in made.jobs] == ["000001", "000001", "000003", "000003", "000005", "000006"]
    assert [job.request["request"]["seed"] for job in made.jobs] == [5, 6, 7, 8, 9, 10]  # type: ignore[index,call-overload]
    assert made == plan(rows, pipe, SETTINGS, GIVEN, seed=5)


def test_all_bad_rows_are_named_before_anything_is_drawn(pipe: Pipeline, tmp_path: Path) -> None:
    rows = [
        Row(1, {"prompt": "a", "id": "One"}, Path()),
        Row(3, {"prompt": "b", "steps": 0}, Path()),
        Row(4, {"prompt": "c", "id": "one"}, Path()),
        Row(5, {"prompt": "d", "sampler": "ddmp"}, Path()),
        Row(6, {"prompt": "e", "id": "../e"}, Path()),
    ]
    with pytest.raises(RowError) as caught:
        plan(rows, pipe, SETTINGS, GIVEN)
    assert [text.split(":")[0] for text in caught.value.rows] == ["line 3", "line 4", "line 5", "line 6"]
    assert "that of line 1 too" in caught.value.rows[1]
    assert "4 of 5 rows" in str(caught.value)


@pytest.mark.parametrize("stop_at", mostly_slow([1, 3, 6, 9, 12], 1, 6, 12))
def test_a_stop_changes_no_byte(pipe: Pipeline, tmp_path: Path, stop_at: int) -> None:
    rows = rows_of(*PROMPTS)
    draw(tmp_path / "whole", pipe, rows)
    with pytest.raises(Broken):
        draw(tmp_path / "broken", pipe, rows, stop_at=stop_at)
    assert [one["state"] for one in manifest(tmp_path / "broken")] != ["done"] * 5
    (tmp_path / "broken" / ".000005.png.left.part").write_bytes(b"half")
    draw(tmp_path / "broken", pipe, rows)
    assert sums(tmp_path / "broken") == sums(tmp_path / "whole")
    assert manifest(tmp_path / "broken") == manifest(tmp_path / "whole")
    assert not list((tmp_path / "broken").glob("*.part"))


def test_done_rows_are_not_drawn_again_and_lost_files_are(pipe: Pipeline, tmp_path: Path) -> None:
    rows = rows_of(*PROMPTS)
    draw(tmp_path / "out", pipe, rows)
    before = sums(tmp_path / "out")
    draw(tmp_path / "out", pipe, rows, stop_at=1)
    (tmp_path / "out" / "000003.png").unlink()
    draw(tmp_path / "out", pipe, rows)
    assert sums(tmp_path / "out") == before
    db = store.open_store(tmp_path / "out" / batch.STORE)
    assert [job.attempts for job in store.listed(db)] == [1, 1, 2, 2, 1]


def test_a_longer_list_goes_on_and_another_is_refused(pipe: Pipeline, tmp_path: Path) -> None:
    draw(tmp_path / "out", pipe, rows_of("a fox", "a house"))
    draw(tmp_path / "out", pipe, rows_of("a fox", "a house", "a tree"))
    assert sorted(sums(tmp_path / "out")) == ["000001.png", "000002.png", "000003.png"]
    with pytest.raises(JobError, match=r"The row '000002' differs"):
        draw(tmp_path / "out", pipe, rows_of("a fox", "a horse", "a tree"))
    with pytest.raises(JobError, match="a row '000002', which the list does not hold"):
        draw(tmp_path / "out", pipe, rows_of("a fox"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": "other"}, "model"),
        ({"batch_size": 3}, "batch_size"),
        ({"suffix": ".jpg"}, "format"),
        ({"load": {"dtype": "bfloat16"}}, "settings"),
        ({"load": {"lora": {"few-step": 1.0}}}, "settings"),
        ({"shards": 7}, "shards"),
    ],
)
def test_other_settings_are_an_error_that_names_them(pipe: Pipeline, tmp_path: Path, change: Any, name: str) -> None:
    draw(tmp_path / "out", pipe, rows_of("a fox"))
    with (
        pytest.raises(JobError, match=f"was begun with {name} "),
        open_batch(tmp_path / "out", replace(SETTINGS, **change)),
    ):
        pass


def test_where_it_runs_is_no_setting(pipe: Pipeline, tmp_path: Path) -> None:
    draw(tmp_path / "out", pipe, rows_of("a fox"))
    with open_batch(tmp_path / "out", replace(SETTINGS, load={"device": "cuda", "offload": "parts"})) as found:
        assert store.counts(found.db)["done"] == 1


def test_a_folder_is_for_one_process_and_holds_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds files already"), open_batch(tmp_path / "full", SETTINGS):
        pass
    with (
        open_batch(tmp_path / "out", SETTINGS),
        pytest.raises(OutputError, match="Another process writes into"),
        open_batch(tmp_path / "out", SETTINGS),
    ):
        pass


@pytest.mark.parametrize("stop_at", mostly_slow([None, 4, 9], None, 9))
def test_shards_hold_what_files_would(pipe: Pipeline, tmp_path: Path, stop_at: int | None) -> None:
    rows, settings = rows_of(*PROMPTS), replace(SETTINGS, shards=2)
    draw(tmp_path / "files", pipe, rows)
    if stop_at is not None:
        with pytest.raises(Broken):
            draw(tmp_path / "shards", pipe, rows, settings, stop_at)
    draw(tmp_path / "shards", pipe, rows, settings)
    expected = sums(tmp_path / "files")
    found: dict[str, str] = {}
    members: list[list[str]] = []
    for path in sorted((tmp_path / "shards").glob("shard-*.tar")):
        with tarfile.open(path) as archive:
            members.append(archive.getnames())
            for one in archive:
                data = archive.extractfile(one)
                assert data is not None
                if one.name.endswith(".png"):
                    found[one.name] = hashlib.sha256(data.read()).hexdigest()
                else:
                    assert json.loads(data.read())["request"]["steps"] == 1
    assert found == expected
    assert members == [
        ["000001.png", "000001.json", "000002.png", "000002.json"],
        ["000003.png", "000003.json", "000004.png", "000004.json"],
        ["000005.png", "000005.json"],
    ]
    assert not sums(tmp_path / "shards")
    assert [one["shard"] for one in manifest(tmp_path / "shards")] == [f"shard-0000{i}.tar" for i in (0, 0, 1, 1, 2)]
    again = {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")}
    draw(tmp_path / "shards", pipe, rows, settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")} == again
