"""A run in a process of its own, which is killed from outside at a moment that the test chooses."""

import multiprocessing
import os
import signal
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kandinsky.training import run_config
from kandinsky.training.checkpoint import newest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["kandinsky.training.api", "torch.utils.tensorboard", "pytest"])
AT_THE_DISK = ("fsync", "rename", "replace", "rmdir", "unlink", "mkdir")
"""Every moment at which the disk changes is one to be killed at, before it and (at the next one) after it."""


KINDS = ("disk", "event")
"""A moment is a look at the disk, or an event that the run tells of: a step, an image encoded."""


def live(config: dict[str, Any], at: tuple[str, int] | None, given: Connection) -> None:
    """Runs or resumes; at that moment of that kind, counted from 1, it says so and stands still.

    At the end it says how many of each kind there were.
    """
    seen = Counter[str]()

    def moment(kind: str) -> None:
        seen[kind] += 1
        if (kind, seen[kind]) == at:
            given.send(None)
            signal.pause()

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            moment("disk")
            return function(*args, **kwargs)

        return call

    for name in AT_THE_DISK:
        setattr(os, name, counted(getattr(os, name)))
    torch.set_num_threads(1)
    for _ in run_config(config, resume=True):
        moment("event")
    given.send(seen)


def run_to(config: dict[str, Any], at: tuple[str, int] | None) -> Counter[str] | None:
    """Starts or resumes a run and kills it at a moment of a kind, see `live`.

    Returns None, or how many moments of each kind there were when it came to its end before.
    """
    here, there = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=live, args=(config, at, there))
    child.start()
    there.close()
    try:
        ended: Counter[str] | None = here.recv()
    finally:
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join(60)
    assert ended is not None or child.exitcode == -signal.SIGKILL
    return ended


def assert_same_end(config: dict[str, Any], whole: dict[str, Any], stage: str) -> None:
    """Two runs ended alike: all tensors and numbers of the newest checkpoint, the losses, what is left."""
    ours, theirs = (Path(values["out"]) for values in (config, whole))
    found, wanted = (newest(out / stage / "checkpoints").checkpoint for out in (ours, theirs))
    assert found is not None
    assert wanted is not None
    assert found.step == wanted.step
    assert found.tensors.keys() == wanted.tensors.keys()
    assert any(name.endswith(".ema") for name in wanted.tensors)
    assert any(name.endswith(".optimiser") and value for name, value in wanted.tensors.items())
    for file, tensors in wanted.tensors.items():
        assert tensors.keys() == found.tensors[file].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, found.tensors[file][name]), f"{file}: {name}"
    assert {**found.values, "seconds": 0} == {**wanted.values, "seconds": 0}
    losses = f"{stage}/losses.jsonl"
    assert (ours / losses).read_bytes() == (theirs / losses).read_bytes()
    left, kept = _visible(ours), _visible(theirs)
    assert left == kept
    for path in kept:
        if stage not in path.parts and "cache" not in path.parts:
            assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path
    assert not [*(ours / stage / "checkpoints").glob(".*")]


def _visible(out: Path) -> list[Path]:
    """What a run left of weights and encodings, without hidden files of writes that were killed."""
    found = [path.relative_to(out) for path in out.rglob("*.safetensors")]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
