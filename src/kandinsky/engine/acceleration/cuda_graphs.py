"""Steps of a network recorded as a CUDA graph, which runs without Python.

A GPU is done with most kernels sooner than the next can be started from Python.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

FEWEST_STEPS = 5
"""From this many steps on: recording takes about as long as two steps."""
TOLERANCE = 0.01
"""How far a network's first replay may be from the plain call, in parts of its largest number."""
Run: TypeAlias = Callable[..., Tensor]
Shapes: TypeAlias = tuple[torch.Size, ...]

_proven: WeakKeyDictionary[nn.Module, set[Shapes]] = WeakKeyDictionary()
"""For which inputs a replay of a network gave the numbers of the plain call."""


def replayed(run: Run, network: nn.Module, steps: int) -> Run:
    """`run` for `steps` calls with tensors of the same shapes, recorded where that saves time.

    `run` calls `network`, and depends on nothing but its arguments that changes between calls. It is itself
    returned where a graph is of no use: off CUDA, for fewer than `FEWEST_STEPS` steps, and for networks with
    hooks or with weights that are away or not plain tensors (quantized ones).
    """
    weights = list(network.parameters())
    if steps < FEWEST_STEPS or any(weight.device.type != "cuda" for weight in weights):
        return run
    plain = all(type(weight.data) is Tensor for weight in weights)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    return CudaGraphRunner(run, network) if plain and not hooked else run


def record(run: Run, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A call of `run` recorded: what makes it again with the numbers that `inputs` have then, and where its
    output appears."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating meanwhile.
    with torch.cuda.device(inputs[0].device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = run(*inputs)
    return graph.replay, output


class CudaGraphRunner:
    """`run` on the same GPU again and again: the first call is made as it is, the second recorded, and all
    from then on replayed.

    A graph reads weights from where they lay: when they have moved, it is recorded anew. The first replay of
    each network, for each shape of its inputs, is compared with the plain call. Calls are made as they are
    where gradients are recorded or operations watched (counted, say), and for good, with a warning, where
    recording fails or gives other numbers.
    """

    def __init__(self, run: Run, network: nn.Module) -> None:
        self._run = run
        self._proven = _proven.setdefault(network, set())
        self._weights = [(m._parameters, name) for m in network.modules() for name in m._parameters]
        self._called = self._failed = False
        self._places: list[int] = []
        self._inputs: list[Tensor] = []
        self._recorded: tuple[Callable[[], None], Tensor] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """As `run`; the output is the caller's own."""
        watched = torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack() > 0
        if watched or self._failed or not self._called:
            # What libraries do when they first meet a shape cannot be recorded.
            self._called = self._called or not watched
            return self._run(*inputs)
        if (self._recorded is None or not self._fits(inputs)) and not self._record(inputs):
            return self._run(*inputs)
        return self._again(inputs)

    def _again(self, inputs: Sequence[Tensor]) -> Tensor:
        assert self._recorded is not None
        replay, output = self._recorded
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        replay()
        return output.clone()

    def _fits(self, inputs: Sequence[Tensor]) -> bool:
        alike = all(k.shape == g.shape for k, g in zip(self._inputs, inputs, strict=True))
        return alike and self._places == self._where()

    def _where(self) -> list[int]:
        """The addresses of all weights."""
        found = (parameters[name] for parameters, name in self._weights)
        return [0 if weight is None else weight.data_ptr() for weight in found]

    def _record(self, inputs: Sequence[Tensor]) -> bool:
        """Whether that went well."""
        self._recorded, shapes = None, tuple(given.shape for given in inputs)
        self._inputs, self._places = [given.clone() for given in inputs], self._where()
        try:
            self._recorded = record(self._run, self._inputs)
            right = shapes in self._proven or self._is_right(inputs)
            reason = None if right else "it gives other numbers"
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        if reason is None:
            self._proven.add(shapes)
            return True
        self._recorded, self._failed = None, True
        warnings.warn(f"Steps are not recorded as a CUDA graph, so they take longer: {reason}.", stacklevel=2)
        return False

    def _is_right(self, inputs: Sequence[Tensor]) -> bool:
        # Other numbers than those recorded with: what was not copied would show.
        others = [given / 2 for given in inputs]
        plain, again = self._run(*others), self._again(others)
        return bool((again - plain).abs().max() <= TOLERANCE * plain.abs().max())
