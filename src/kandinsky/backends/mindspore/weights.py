"""The weights of a network, read from its files into arrays of MindSpore."""

from collections.abc import Iterator, Mapping
from typing import Any

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor

from kandinsky.checkpoints.lazy_weights import CPU, LazyWeights, placed, portions


class Weights(Mapping[str, Any]):
    """The tensors of a network by their native names, or those of a part of it."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def at(self, *names: object) -> "Weights":
        """Those of a part."""
        return Weights(self._tensors, self._prefix + "".join(f"{name}." for name in names))

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return bool(self.at(name))

    def of(self, *names: str) -> tuple[Tensor, ...]:
        """The weight and, where there is one, the bias of each of some layers."""
        parts = [self.at(name) for name in names]
        return tuple(part[one] for part in parts for one in ("weight", "bias") if one in part)

    def count(self, name: str) -> int:
        """How many parts "0", "1", ... a part has."""
        return len({key.split(".")[0] for key in self.at(name)})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (key[len(self._prefix) :] for key in self._tensors if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read(lazy: LazyWeights, shapes: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Weights:
    """The tensors that `shapes` names, in `dtype`, a portion of the files at a time."""
    found: dict[str, Tensor] = {}
    for portion in portions(shapes):
        tensors = lazy.read(portion)
        for name in portion:
            found[name] = Tensor(laid_out(name, placed(tensors.pop(name), CPU, dtype).numpy()))
    return Weights(found)


def laid_out(name: str, weight: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A tensor in torch's layout as the layers want it: of a convolution (O, C, k, k) the matrix (O, k k C), of a
    transposed one (C, O, k, k) the matrix (k k O, C)."""
    if weight.ndim != 4:
        return np.ascontiguousarray(weight)
    if "upsample." in name:
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, len(weight))
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(len(weight), -1)


def to_array(tensor: torch.Tensor) -> Tensor:
    """A tensor of torch as an array of MindSpore."""
    return Tensor(np.ascontiguousarray(tensor.detach().numpy()))


def to_tensor(array: Tensor) -> torch.Tensor:
    """An array of MindSpore as a tensor of torch."""
    return torch.from_numpy(array.asnumpy())


DTYPES = {torch.float32: ms.float32, torch.float16: ms.float16}
"""What networks compute in; MindSpore has no bfloat16 on a CPU."""
