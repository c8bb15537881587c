"""`kandinsky generate` while it draws: previews and interruptions, on a pipeline without weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.fakes import Command, Loader


def files() -> list[str]:
    return sorted(os.listdir())


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_preview_is_updated_and_removed(generate: Command, loader: Loader) -> None:
    seen = {}

    def look(step: int) -> None:
        if Path("fox.preview.png").exists():
            seen[step] = pixels("fox.preview.png").shape

    loader.pipeline.on_step = look
    assert generate("fox", "-o", "fox.png", "--preview") == 0
    assert seen == {2: (4, 4, 3), 3: (4, 4, 3), 4: (4, 4, 3)}
    assert files() == ["fox.png"]
    seen.clear()
    assert generate("fox", "-o", "fox.png", "--overwrite") == 0
    assert seen == {}, "no preview unless asked for"


def test_ctrl_c_leaves_finished_images_only(generate: Command, loader: Loader) -> None:
    def interrupt(step: int) -> None:
        if len(loader.pipeline.asked) == 2 and step == 3:
            raise KeyboardInterrupt

    loader.pipeline.on_step = interrupt
    assert generate("fox", "-n", 3, "-o", "fox.png", "--preview") == 130
    assert files() == ["fox-0001.png"]


def test_ctrl_c_between_events_closes_the_stream(
    generate: Command, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kandinsky.cli.generate._write_previews", interrupt)
    assert generate("fox", "-o", "fox.png", "--preview") == 130
    assert loader.pipeline.closed == 1
    assert files() == []


SLOW_PROGRAM = """
import sys, time, kandinsky
from kandinsky.cli.main import run
from tests.cli.fakes import DEFAULTS, FakePipeline, Loader

def slowly(step):
    print("step", step, flush=True)
    time.sleep(0 if step == 1 else 60)

kandinsky.__dict__["load"] = Loader(FakePipeline(on_step=slowly))
run(["generate", "fox", "-o", "fox.png", "--preview", "--steps", "20"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_a_real_signal(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == ["step 1\n", "step 2\n"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
