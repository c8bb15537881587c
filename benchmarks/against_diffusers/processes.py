"""Processes of the sides, seen from the one that measures, which holds no torch and weighs little."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import kandinsky
from kandinsky.core.errors import KandinskyError

SOURCES = (str(Path(kandinsky.__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2]))
"""Where this library and these benchmarks are imported from."""


class BenchError(KandinskyError):
    """A side could not do what was asked; the message holds what it said."""


def environment(threads: int) -> dict[str, str]:
    """The environment of all processes: the same number of threads, no network, this very library."""
    told = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    told["PYTHONPATH"] = os.pathsep.join([*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    if threads:
        told |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return told


class Child:
    """A process that stays and answers, see `child`; whatever it prints goes to `log`."""

    def __init__(self, log: Path, threads: int, device: str) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.against_diffusers.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(threads),
            )
        self._tell({"threads": threads, "device": device})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """What the process answers to one order; BenchError with its own words when it cannot."""
        self._tell({"do": do, **order})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"A process ended with code {self._process.wait()}.", self._said())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"A process failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process, and waits until its memory is free."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchError(f"A process ended with code {self._process.wait()}.", self._said()) from error

    def _said(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(line for line in lines[-5:] if line.strip())


def run_once(command: Sequence[str], log: Path, threads: int) -> tuple[float, int]:
    """Runs a command to its end: seconds from start to end, and its largest resident set in bytes.

    Raises BenchError when it fails.
    """
    with log.open("ab") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment(threads))
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        raise BenchError(f"{Path(command[0]).name} ended with code {process.returncode}.", " / ".join(said))
    return seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
