"""One workload on two sides: who goes when, what is noted, and the ratio pair by pair."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.against_diffusers.processes import Child, run_once
from benchmarks.against_diffusers.request import PROMPT, SEED, Job
from benchmarks.against_diffusers.workloads import Workload

Say = Callable[[str], None]
DEFAULT = "default"
"""The pairing of both sides as they come; others are named by the dtype in which both do their best."""


@dataclass
class Measured:
    """What was noted of one side; seconds of the span that counts, peaks in bytes, operations of one span."""

    dtype: str = ""
    notes: list[str] = field(default_factory=list)
    load_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    device_peaks: list[int] = field(default_factory=list)
    operations: float = 0.0

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def taken(self) -> list[int]:
        """The peaks that count: of the device where there is one with a memory of its own."""
        return self.device_peaks or self.peaks

    @property
    def peak(self) -> int:
        """The largest of those, in bytes."""
        return max(self.taken)


@dataclass
class Row:
    """One workload in one pairing; a side that was not asked for is None.

    `difference` is the mean and the largest difference of the sides' first images, in levels of 255.
    `rates` are the machine's, of matrix products by dtype around this row, in operations a second.
    """

    workload: Workload
    pairing: str
    sides: dict[str, Measured]
    difference: tuple[float, float] | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """How far this library is ahead, pair by pair: of peaks where those are the aim, else of seconds."""
        if len(self.sides) < 2:
            return []
        ours, peer = self.sides["ours"], self.sides["peer"]
        by_peak = self.workload.counts == "peak"
        pairs = zip(*((s.taken if by_peak else s.seconds) for s in (peer, ours)), strict=True)
        return [theirs / own for theirs, own in pairs]

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return median(self.ratios) if self.ratios else None

    def share(self, side: str) -> float | None:
        """The part of the machine's rate in its dtype at which a side did its operations, if known."""
        found = self.sides.get(side)
        rate = self.rates.get(found.dtype) if found else None
        return found.operations / found.median / rate if found and rate and found.operations else None

    @property
    def bar(self) -> float | None:
        """What the ratio should be at least."""
        return self.workload.bars.get(self.pairing)


@dataclass(frozen=True)
class Setting:
    """How all workloads of a run are done."""

    runs: int
    threads: int
    device: str
    scratch: Path
    compiled: bool = False


def compare(workload: Workload, pairing: str, sides: Sequence[str], folder: Path, setting: Setting) -> Row:
    """Measures a workload on the given sides ("ours", "peer"), A B A B; BenchError when one fails."""
    dtype = None if pairing == DEFAULT else pairing
    jobs = {
        side: Job(
            side,  # type: ignore[arg-type]
            str(folder),
            workload.asked,
            workload.span,
            dtype,
            setting.device,
            setting.threads,
            setting.compiled,
            workload.denoiser,
        )
        for side in sides
    }
    row = Row(workload, pairing, {side: Measured() for side in sides})
    {"warm": _warm, "alone": _alone, "cold": _cold}[workload.kind](row, jobs, setting)
    files = [_images(setting, side) for side in ("ours", "peer")]
    if len(sides) == 2 and all(file.is_file() for file in files):
        row.difference = difference(*files)
    for file in files:
        file.unlink(missing_ok=True)
    return row


def _warm(row: Row, jobs: dict[str, Job], setting: Setting) -> None:
    """Both stay loaded; the first request of each, in which operations are counted, is not timed."""
    with ExitStack() as stack:
        children = {side: stack.enter_context(_child(setting, side)) for side in jobs}
        for side, job in jobs.items():
            _load(children[side], job, row.sides[side], setting, count=True)
        for _ in range(setting.runs):
            for side, child in children.items():
                row.sides[side].seconds.append(child.ask("run")["seconds"])
        for side, child in children.items():
            _note_peak(child, row.sides[side])


def _alone(row: Row, jobs: dict[str, Job], setting: Setting) -> None:
    """Never two processes at once: each has all the memory there is."""
    for _ in range(setting.runs):
        for side, job in jobs.items():
            with _child(setting, side) as child:
                seconds = _load(child, job, row.sides[side], setting, count=False)
                row.sides[side].seconds.append(seconds)
                _note_peak(child, row.sides[side])


def _cold(row: Row, jobs: dict[str, Job], setting: Setting) -> None:
    commands = {}
    for side, job in jobs.items():
        image = setting.scratch / f"{side}.png"
        asked = job.asked
        if side == "ours":
            commands[side] = [
                *(sys.executable, "-m", "kandinsky", "generate", PROMPT, "--seed", str(SEED)),
                *("--steps", str(asked.steps), "--prior-steps", str(asked.prior_steps)),
                *("--device", setting.device, "--output", str(image)),
            ]
        else:
            told = json.dumps(job.to_json())
            commands[side] = [sys.executable, "-m", "benchmarks.against_diffusers.peer_cold", told, str(image)]
    for number in range(-1, setting.runs):
        for side, command in commands.items():
            seconds, peak = run_once(command, setting.scratch / f"{side}.log", setting.threads)
            # The first of each only brings files into the system's cache.
            if number >= 0:
                row.sides[side].seconds.append(seconds)
                row.sides[side].peaks.append(peak)
    for side in jobs:
        row.sides[side].dtype = "float32" if side == "peer" else ""
        _keep_png(setting, side)


def _load(child: Child, job: Job, noted: Measured, setting: Setting, count: bool) -> float:
    """Loads a side and makes its first request; returns the seconds of that, in which it may count too."""
    told = child.ask("load", job=job.to_json())
    noted.dtype, noted.notes, noted.load_seconds = told["dtype"], told["notes"], told["seconds"]
    first = child.ask("run", images=str(_images(setting, job.side)), count=count and not job.compiled)
    noted.operations = first["operations"]
    return float(first["seconds"])


def _note_peak(child: Child, noted: Measured) -> None:
    found = child.ask("peak")
    noted.peaks.append(found["peak"])
    if found["device"]:
        noted.device_peaks.append(found["device"])


def _child(setting: Setting, side: str) -> Child:
    return Child(setting.scratch / f"{side}.log", setting.threads, setting.device)


def _images(setting: Setting, side: str) -> Path:
    return setting.scratch / f"{side}.npy"


def _keep_png(setting: Setting, side: str) -> None:
    from PIL import Image

    with Image.open(setting.scratch / f"{side}.png") as image:
        np.save(_images(setting, side), np.asarray(image.convert("RGB"))[None])


def difference(ours: Path, theirs: Path) -> tuple[float, float]:
    """Mean and largest difference of two files of images, in levels of 255."""
    a, b = (np.load(path).astype(np.int16) for path in (ours, theirs))
    gap = np.abs(a - b)
    return float(gap.mean()), float(gap.max())
