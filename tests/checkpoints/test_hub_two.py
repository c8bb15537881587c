"""Processes that share one cache: each gets the whole checkpoint, whichever of them downloads, or is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints.hub_model import FILES, MODEL, PLAIN, UNET
from tests.checkpoints.hub_server import Hub, files_of, running

PROGRAM = f"from kandinsky.checkpoints.hub import resolve; print(resolve({MODEL!r}))"


def reader(hub: Hub, cache: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def checked(process: "subprocess.Popen[str]") -> Path:
    """Where the checkpoint lies that a process was given; all its files are those of the hub."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    folder = Path(out.splitlines()[-1])
    files = files_of(folder)
    assert set(PLAIN) <= set(files)
    assert all(data == FILES[name] for name, data in files.items())
    return folder


def test_three_at_once(tmp_path: Path) -> None:
    with running() as hub:
        hub.publish(MODEL, FILES)
        started = [reader(hub, tmp_path / "cache") for _ in range(3)]
        assert len({checked(process) for process in started}) == 1
        large = [name for name in hub.fetched() if name in PLAIN]
    assert sorted(large) == sorted(PLAIN)  # a file that one process fetches is waited for by the others
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_one_is_killed_while_it_downloads(tmp_path: Path) -> None:
    with running() as hub:
        hub.publish(MODEL, FILES)
        hub.dripping = True
        first = reader(hub, tmp_path / "cache")
        deadline = time.monotonic() + 60
        while not any(name.endswith(".safetensors") for name in hub.fetched()):
            assert time.monotonic() < deadline, "it fetched nothing"
            time.sleep(0.02)
        second = reader(hub, tmp_path / "cache")
        time.sleep(1)
        hub.dripping = False
        first.send_signal(signal.SIGKILL)
        first.communicate()
        folder = checked(second)
    assert (folder / UNET).read_bytes() == FILES[UNET]
