"""Checkpoints of a run that survive a kill at any moment: written aside, hashed, synced, then renamed.

A checkpoint is a folder `step-00001000` of safetensors files, one `state.json`, and `hashes.json` with the
SHA-256 of each. A folder of that name is complete; whatever damage comes later is found by the hashes.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kandinsky.checkpoints.weights import dense, read_tensor_file
from kandinsky.core.errors import CheckpointError, OutputError
from kandinsky.core.files import whole_folder
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, read_bytes

HASHES = "hashes.json"
STATE = "state.json"
_ASIDE = ".aside-"


class LearnerValues(TypedDict):
    """JSON values of a trainable: the optimiser's numbers, how often weights were averaged, loss scaling."""

    optimiser: dict[str, float]
    averaged: int
    scaler: dict[str, float]


class RandomValues(TypedDict):
    """JSON values of the global generators."""

    numpy: tuple[str, int, int, float]
    python: tuple[int, list[int], float | None]


class RunValues(TypedDict, total=False):
    """JSON values of a run; `data` is the position in the order of examples."""

    finished: bool
    learners: dict[str, LearnerValues]
    data: dict[str, int]
    seconds: float
    losses: dict[str, float]
    random: RandomValues
    log_size: int


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue: tensors by file (no suffix) and name, and plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: RunValues
    path: Path | None = None


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint, if any, and a sentence about each newer one that had to be refused."""

    checkpoint: Checkpoint | None
    refused: tuple[str, ...] = field(default=())


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint under `folder` and removes all but the newest `keep`; returns its path.

    Raises OutputError when the disk is full or the folder refuses; earlier checkpoints stay as they were.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        # Only a damaged one can be in the way: a whole one would have been resumed from.
        with whole_folder(final, replace=True) as aside:
            _write(aside, checkpoint)
        for old in _steps(folder)[keep:]:
            _remove(old)
        _clear(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The checkpoint {final} cannot be written ({error}).", "Free some disk space, then resume."
        ) from error
    return final


def tidy(folder: Path, keep: int) -> None:
    """Removes what a killed save left: half a checkpoint, and those beyond `keep` if the newest is whole."""
    _clear(folder)
    steps = _steps(folder)
    if len(steps) > keep:
        try:
            read(steps[0])
        except CheckpointError:
            return
        for old in steps[keep:]:
            _remove(old)


def newest(folder: Path, files: set[str] | None = None, optional: Set[str] = frozenset()) -> Found:
    """Reads the newest whole checkpoint, or some of its files as `read` does; damaged ones are refused."""
    refused: list[str] = []
    for path in _steps(folder):
        try:
            return Found(read(path, files, optional), tuple(refused))
        except CheckpointError as error:
            refused.append(str(error))
    return Found(None, tuple(refused))


def read(path: Path, files: set[str] | None = None, optional: Set[str] = frozenset()) -> Checkpoint:
    """Reads one checkpoint, or only some of its tensor files, after comparing their hashes.

    `optional` files are read where the checkpoint has them. Raises CheckpointError for a missing or changed file.
    """
    hashes = _read_json(path / HASHES)
    wanted = hashes.keys() - {STATE}
    if files is not None:
        wanted = {f"{name}.safetensors" for name in files}
        wanted |= hashes.keys() & {f"{name}.safetensors" for name in optional}
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in [STATE, *sorted(wanted)]:
        if not (path / name).is_file() or _hash(path / name) != hashes.get(name):
            raise CheckpointError(f"{path / name} is missing or damaged.", "")
        if name != STATE:
            tensors[name.removesuffix(".safetensors")] = read_tensor_file(path / name)
    values = _read_json(path / STATE)
    step = values.pop("step", None)
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path / STATE} names no step.", "")
    return Checkpoint(step, tensors, cast(RunValues, values), path)


def random_state(device: torch.device) -> tuple[dict[str, Tensor], RandomValues]:
    """The states of the global generators (torch on CPU and `device`, numpy, python): tensors and JSON values."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    version, numbers, spare = random.getstate()
    return tensors, {
        "numpy": (str(kind), int(position), int(has_gauss), float(gauss)),
        "python": (version, list(numbers), spare),
    }


def restore_random_state(tensors: dict[str, Tensor], values: RandomValues, device: torch.device) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    kind, position, has_gauss, gauss = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))
    version, numbers, spare = values["python"]
    random.setstate((version, tuple(numbers), spare))


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    for name, tensors in checkpoint.tensors.items():
        save_file(dense(tensors), folder / f"{name}.safetensors")
    (folder / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.values}), encoding="utf-8")
    names = [*(f"{name}.safetensors" for name in checkpoint.tensors), STATE]
    hashes = {name: _hash(folder / name) for name in names}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1), encoding="utf-8")


def _steps(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def _clear(folder: Path) -> None:
    for left in (*folder.glob(f"{_ASIDE}*"), *folder.glob(".step-*")):
        shutil.rmtree(left)


def _remove(path: Path) -> None:
    # Renamed first: a kill in the middle must not leave half a checkpoint under a name that promises a whole one.
    aside = path.with_name(f"{_ASIDE}old-{path.name}")
    os.rename(path, aside)
    shutil.rmtree(aside)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_bytes(path))
    except (OSError, UnsoundTextError) as error:
        raise CheckpointError(f"{path} is missing or damaged.", "") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no table.", "")
    return values
