"""`kandinsky batch`: lists become folders, and kills at any moment change no byte of them."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from kandinsky.cli.main import run
from kandinsky.core.metadata import read_metadata
from kandinsky.jobs import store

QUICK = ["--steps", "1", "--prior-steps", "1", "--device", "cpu"]


def batch(*arguments: object, code: int = 0) -> None:
    """Runs the command in this process; its workers are processes of their own."""
    with pytest.raises(SystemExit) as ended:
        run(["batch", *map(str, arguments), *QUICK])
    assert (ended.value.code or 0) == code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Workers are started by name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def lines_of(name: str, *rows: object) -> Path:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(name)


def manifest(folder: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]


def test_a_list_becomes_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), (200, 40, 30)).save("in.png")
    rows = [
        {"prompt": "a fox", "steps": 2},
        {"prompt": "a cat", "image": "in.png", "strength": 0.5, "output": "cat.jpg", "seed": 9},
        {"mix": ["a cat:0.7", "in.png:0.3"], "id": "mixed"},
    ]
    batch(lines_of("list.jsonl", *rows), "out", "--batch-size", 1, "--guidance-scale", 3, "--seed", 40)
    printed = capsys.readouterr()
    assert printed.out == "out/manifest.jsonl\n"
    assert printed.err.startswith("note: 3 rows, 3 images in 3 batches of up to 1, by emoji on cpu, into out.\n")
    assert sorted(os.listdir("out")) == [".lock", "000001.png", "cat.jpg", "jobs.db", "manifest.jsonl", "mixed.png"]
    assert [(one["id"], one["state"]) for one in manifest("out")] == [
        ("000001", "done"),
        ("cat", "done"),
        ("mixed", "done"),
    ]
    stored = read_metadata("out/000001.png").request
    assert [stored[name] for name in ("steps", "guidance_scale", "seed")] == [2, 3, 40]
    assert read_metadata("out/cat.jpg").request["seed"] == 9
    assert read_metadata("out/mixed.png").request["seed"] == 42
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.[pj]*g")}
    batch("list.jsonl", "out", "--batch-size", 1, "--guidance-scale", 3, "--seed", 40)
    assert "3 rows begun before; 3 are done." in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_says_what_would_be_done_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("a fox\n\na house\n")
    batch("list.txt", "out", "--dry-run")
    assert "note: 2 rows, 2 images in 1 batch of up to 4, by emoji on cpu" in capsys.readouterr().err
    assert not Path("out").exists()


def test_all_bad_rows_are_named_and_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "a"}, {"promt": "a"}, {"prompt": "b", "steps": 0}, {"prompt": "c", "sampler": "eulr"}]
    batch(lines_of("list.jsonl", *rows), "out", code=1)
    said = capsys.readouterr().err
    assert "3 of 4 rows cannot be drawn" in said
    for expected in ("line 2: A row has no 'promt'. Did you mean 'prompt'?", "line 3: steps 0", "line 4: "):
        assert expected in said
    assert not Path("out").exists()


def test_a_limit_draws_the_first_rows_and_more_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("a fox\na house\na tree\n")
    batch("list.txt", "out", "--limit", 1)
    batch("list.txt", "out", "--limit", 2)
    assert [one["id"] for one in manifest("out")] == ["000001", "000002"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.txt", "out"], "gone.txt cannot be read"),
        (["list.txt", "full"], "full holds files already"),
        (["list.txt", "out", "--format", "gif"], ".gif is not an image format"),
        (["list.txt", "out", "--model", "nowhere/nothing"], "nowhere/nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("list.txt").write_text("a fox\n")
    Path("full").mkdir()
    Path("full", "letter.txt").write_text("dear")
    batch(*arguments, code=1)
    assert said in capsys.readouterr().err
    assert not list(Path().glob("out/*.png"))


def test_the_former_flag_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["generate", "--requests", "list.jsonl"])
    assert ended.value.code == 2
    assert "kandinsky batch list.jsonl FOLDER" in " ".join(capsys.readouterr().err.replace("│", "").split())


def child_of(process: int) -> int | None:
    """The worker of a running command."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process and fields[0] != "Z":
                return int(entry.parent.name)
    return None


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("rows", "kills"), [(24, 2), pytest.param(1000, 10, marks=pytest.mark.slow)])
def test_kills_at_any_moment_change_no_byte(tmp_path: Path, rows: int, kills: int) -> None:
    Path("list.txt").write_text("".join(f"a {'red' if i % 2 else 'blue'} {i}\n" for i in range(rows)))
    command = [sys.executable, "-m", "kandinsky", "batch", "list.txt"]
    subprocess.run([*command, "whole", *QUICK], check=True, capture_output=True)
    draw, left = random.Random(kills), kills
    while left:
        with subprocess.Popen([*command, "broken", *QUICK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            begun = len(list(Path("broken").glob("*.png")))
            while process.poll() is None and len(list(Path("broken").glob("*.png"))) < min(begun + 4, rows - 4):
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.5))
            worker = child_of(process.pid)
            if process.poll() is None:
                victim = worker if left % 2 and worker is not None else process.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                left -= 1
                if victim == process.pid:
                    process.wait()
                else:
                    time.sleep(1)
                    process.kill()
            else:
                left -= 1
    done = subprocess.run([*command, "broken", *QUICK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(sums(tmp_path / "whole")) == rows
    assert sums(tmp_path / "broken") == sums(tmp_path / "whole")
    assert manifest("broken") == manifest("whole")
    assert not list(Path("broken").glob(".*.part"))
    db = sqlite3.connect("broken/jobs.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert store.counts(db)["done"] == rows
    assert all(re.fullmatch(r"\d{6}", str(one["id"])) for one in manifest("broken"))
