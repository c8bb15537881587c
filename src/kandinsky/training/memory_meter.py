"""Memory counted without using it: fake tensors, which hold nothing, and a meter of those alive."""

import weakref
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class FakeTensors:
    """Gives modules fake tensors: they keep shape, dtype and strides, and hold nothing.

    What is computed with them is fake too, whatever else goes in; gradients and optimisers work.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def replace(self, module: nn.Module) -> None:
        """Replaces the tensors of a module in place by fake ones on the CPU."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None and not isinstance(value, FakeTensor):
                    part._parameters[name] = nn.Parameter(self._like(value), value.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None and not isinstance(buffer, FakeTensor):
                    part._buffers[name] = self._like(buffer)
        # Fake tensors cannot be swapped for moved ones, and are where they belong.
        module.to = lambda *_, **__: module  # type: ignore[method-assign]

    def _like(self, value: Tensor) -> Tensor:
        with self._mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every tensor that an operation makes inside, while anything holds its memory.

    `live` bytes are held now, `peak` was the most since `mark`. Memory that a kernel takes for itself is not
    seen. A number that is read off a fake tensor is 0.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def count(self, tensors: Iterable[Tensor]) -> int:
        """Counts tensors that were there before; returns how many bytes are new."""
        before = self.live
        for tensor in tensors:
            self._add(tensor)
        return self.live - before

    def mark(self) -> None:
        """Forgets the peak so far."""
        self.peak = self.live

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0.0 if args[0].is_floating_point() else 0
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key)


IN_FLOAT32 = frozenset({F.group_norm, F.layer_norm, F.softmax, torch.softmax, torch.exp, torch.pow})
"""What CUDA computes in float32 under autocast, and the CPU, on which is counted, does not."""


class CudaAutocast(TorchFunctionMode):
    """Inside, such functions widen what they are given, as under autocast on CUDA.

    What runs on the way back runs outside.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in IN_FLOAT32:
            args = tuple(_wide(value) for value in args)
            given = {name: _wide(value) for name, value in given.items()}
        return func(*args, **given)


def _wide(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
