"""A process of one side: loads a model, then makes the same request again whenever it is told to.

Reads a line of JSON from stdin, answers with one on stdout. Whatever libraries print goes to stderr.
"""

import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from benchmarks.against_diffusers.request import Job
from benchmarks.against_diffusers.spans import Moment, measured

if TYPE_CHECKING:
    from benchmarks.against_diffusers.ours import Ours
    from benchmarks.against_diffusers.peer import Peer

RATE_SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows of the square matrices whose product tells the machine's rate."""
RATE_SECONDS = 1.0


class Worker:
    """What a process can be told to do; each method answers with JSON values."""

    def __init__(self, threads: int, device: str) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._torch, self._device = torch, device
        self._side: Ours | Peer | None = None
        self._job: Job | None = None

    def load(self, job: dict[str, Any]) -> dict[str, Any]:
        """Loads a side; answers with its seconds and what the side says of itself."""
        self._job = Job.from_json(job)
        begin = time.perf_counter()
        if self._job.side == "ours":
            from benchmarks.against_diffusers.ours import Ours

            self._side = Ours(self._job)
        else:
            from benchmarks.against_diffusers.peer import Peer

            self._side = Peer(self._job)
        told = self._side.told
        return {"seconds": time.perf_counter() - begin, "dtype": told.dtype, "notes": told.notes}

    def run(self, images: str | None = None, count: bool = False) -> dict[str, Any]:
        """Makes the request once; answers with the seconds and operations of the span that counts.

        With `count` operations are counted, which costs a little time; `images` is where an .npy file of
        the images goes.
        """
        assert self._job is not None
        assert self._side is not None
        counter = None
        if count:
            from benchmarks.against_diffusers.counting import counter as count_operations

            counter = count_operations()
        moments: list[Moment] = []

        def mark(stage: str) -> None:
            if self._device != "cpu":
                self._torch.accelerator.synchronize()
            done = counter.get_total_flops() if counter is not None else 0
            moments.append(Moment(stage, time.perf_counter(), done))

        def once() -> list[np.ndarray[Any, Any]]:
            mark("begin")
            made = self._side.run(mark)  # type: ignore[union-attr]
            mark("end")
            return made

        if counter is None:
            made = once()
        else:
            with counter:
                made = once()
        if images is not None:
            np.save(images, np.stack(made))
        seconds, operations = measured(self._job.span, moments)
        return {"seconds": seconds, "operations": operations, "whole": moments[-1].seconds - moments[0].seconds}

    def rate(self, dtype: str, side: int | None = None) -> dict[str, Any]:
        """Operations a second of a product of large square matrices: what this machine can do at best."""
        torch = self._torch
        side = side or RATE_SIDE["cpu" if self._device == "cpu" else "cuda"]
        kind = getattr(torch, dtype)
        a = torch.randn(side, side, device=self._device).to(kind)
        b = torch.randn(side, side, device=self._device).to(kind)
        times: list[float] = []
        while sum(times) < RATE_SECONDS or len(times) < 5:
            begin = time.perf_counter()
            a @ b
            if self._device != "cpu":
                torch.accelerator.synchronize()
            times.append(time.perf_counter() - begin)
        return {"rate": 2 * side**3 / sorted(times)[len(times) // 2]}

    def machine(self) -> dict[str, Any]:
        """What this machine is and which versions are compared; free bytes of the device."""
        from importlib.metadata import PackageNotFoundError, version

        from kandinsky.engine.devices import choose_device, free_memory

        device = choose_device(self._device)
        found: dict[str, str] = {}
        for name in ("kandinsky-diffusion", "torch", "diffusers", "transformers"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "none"
        name = self._torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return {
            "device": name,
            "threads": self._torch.get_num_threads(),
            "versions": found,
            "free": free_memory(device),
        }

    def make(self, root: str, name: str, tiny: bool) -> dict[str, Any]:
        """Writes a folder of random weights; answers with the parameters of its parts."""
        from benchmarks.against_diffusers.random_models import make_model

        return {"parameters": make_model(Path(root), name, tiny)}

    def peak(self) -> dict[str, Any]:
        """The largest resident set of this process so far, and the device's most allocated bytes."""
        on_device = 0
        if self._device != "cpu":
            on_device = int(self._torch.cuda.max_memory_allocated())
        return {"peak": _peak(), "device": on_device}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {os.cpu_count()} cores"


def _peak() -> int:
    """In bytes; the system's count since exec, for that of getrusage begins at the parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    # In bytes on macOS, in kibibytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(lines: TextIO, answers: TextIO) -> None:
    """Answers orders, `{"do": ...}` a line, until there are no more; the first has threads and device."""
    worker = Worker(**json.loads(lines.readline()))
    for line in lines:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            if os.environ.get("KANDINSKY_BENCH_DEBUG"):
                raise
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
