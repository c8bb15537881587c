"""The command as a process on streams that break: narrow encodings, full disks, closed pipes, two at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families import mostly_slow

PROGRAM = """
import sys, kandinsky
from kandinsky.cli import main
from tests.cli.fakes import FakePipeline, Loader
kandinsky.__dict__["load"] = Loader(FakePipeline())
sys.argv = ["kandinsky", *sys.argv[1:]]
main.program()
"""
ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, *arguments: str, **options: object) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), *sys.path])
    env = os.environ | {"PYTHONPATH": path} | options.pop("env", {})  # type: ignore[operator]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=folder, env=env, **given)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("encoding", mostly_slow(["ascii", "latin-1", "cp1252"], "ascii"))
def test_a_narrow_encoding_loses_nothing(tmp_path: Path, encoding: str) -> None:
    process = start(tmp_path, "generate", "лиса", "--seed", "1", env={"PYTHONIOENCODING": encoding})
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert os.listdir(tmp_path) == ["лиса-1.png"]
    assert b"\\u043b\\u0438" in out
    assert b"Traceback" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start(tmp_path, "generate", "fox", "--seed", "1", stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"error: stdout cannot be written (No space left on device)" in errors
    assert os.listdir(tmp_path) == ["fox-1.png"]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_closed_pipe_stops_no_image(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(tmp_path, "generate", "fox", "-n", "4", "--seed", "1", stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, len(os.listdir(tmp_path))) == (0, 4)
    assert b"Traceback" not in errors
    assert b"Broken" not in errors


def test_two_at_once_lose_no_image(tmp_path: Path) -> None:
    both = [start(tmp_path, "generate", "a fox", "--seed", "3", "--steps", str(steps)) for steps in (3, 4, 5)]
    said = [process.communicate(timeout=60)[0].decode().strip() for process in both]
    assert [process.returncode for process in both] == [0, 0, 0]
    assert sorted(said) == sorted(os.listdir(tmp_path)) == ["a-fox-3-2.png", "a-fox-3-3.png", "a-fox-3.png"]
