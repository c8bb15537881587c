"""Ctrl-C at any moment of the command is one line and exit code 130; nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys
sys.argv = {argv!r}
from kandinsky.cli import entry
# As main() does at once: who hears of the line below may be quicker than the next one.
signal.signal(signal.SIGINT, entry._stop)
print("begun", flush=True)
entry.main()
"""


def interrupted(folder: Path, after: float, *arguments: str) -> tuple[int, str]:
    """The exit code and stderr of a command that was interrupted so many seconds after its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(argv=["kandinsky", *arguments])],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        # Python hands an ignored Ctrl-C on to its children; tests/conftest.py has it heard.
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("after", [0.001, 0.05, 0.2, 0.6, 1.2, 2.0])
def test_generate(after: float, tmp_path: Path) -> None:
    code, said = interrupted(tmp_path, after, "generate", "a red fox", "--steps", "900", "-o", "fox.png", "--quiet")
    assert (code, said) == (130, "note: stopped.\n")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".png"]


@pytest.mark.slow
@pytest.mark.parametrize("step", range(60))
def test_generate_at_every_moment(step: int, tmp_path: Path) -> None:
    code, said = interrupted(tmp_path, step * 0.05, "generate", "a red fox", "--steps", "900", "-o", "fox.png", "-q")
    assert (code, said) == (130, "note: stopped.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [("models",), ("doctor",), ("--help",)])
def test_other_commands(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, said = interrupted(tmp_path, 0.02, *arguments)
    assert (code, said) == (130, "note: stopped.\n")
