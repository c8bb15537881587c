"""Steps of a network recorded as a CUDA graph, which runs without Python.

A GPU is done with most kernels sooner than the next can be started from Python.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEWEST_STEPS = 5
"""From this many steps on: recording takes about as long as two steps."""
Run = Callable[..., Tensor]


def replayed(run: Run, network: nn.Module, steps: int) -> Run:
    """`run` for `steps` calls with tensors of the same shapes, recorded where that saves time.

    `run` calls `network`, and depends on nothing but its arguments that changes between calls. It is itself
    returned where a graph is of no use: off CUDA, for fewer than `FEWEST_STEPS` steps, and for networks with
    hooks or with weights that are not plain tensors (quantized ones).
    """
    plain = all(type(parameter.data) is Tensor for parameter in network.parameters())
    if steps < FEWEST_STEPS or not plain or any(_is_hooked(module) for module in network.modules()):
        return run
    on_cuda = all(parameter.device.type == "cuda" for parameter in network.parameters())
    return Replay(run, network) if on_cuda else run


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class Replay:
    """`run` on the same GPU again and again: the first call is made as it is, the second recorded, and all
    from then on replayed.

    A graph reads weights from where they lay. When they have moved, as when they were away for another
    request, it is recorded anew. Where gradients are recorded, or operations watched (counted, say), calls
    are made as they are.
    """

    def __init__(self, run: Run, network: nn.Module) -> None:
        self._run = run
        self._weights = [(m._parameters, name) for m in network.modules() for name in m._parameters]
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places: list[int] = []
        self._inputs: list[Tensor] = []
        self._output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """As `run`; the output is the caller's own."""
        if torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack():
            return self._run(*inputs)
        self._calls += 1
        if self._calls == 1:
            # What libraries do when they first meet a shape cannot be recorded.
            return self._run(*inputs)
        if self._graph is None or not self._fits(inputs):
            self._record(inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._output.clone()

    def _fits(self, inputs: tuple[Tensor, ...]) -> bool:
        alike = all(
            k.shape == g.shape and k.dtype == g.dtype for k, g in zip(self._inputs, inputs, strict=True)
        )
        return alike and self._places == self._where()

    def _where(self) -> list[int]:
        """The addresses of all weights."""
        found = (parameters[name] for parameters, name in self._weights)
        return [0 if parameter is None else parameter.data_ptr() for parameter in found]

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._graph, self._output = None, torch.empty(0)
        with torch.cuda.device(inputs[0].device):
            self._inputs = [given.clone() for given in inputs]
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on allocating meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._output = self._run(*self._inputs)
        self._graph, self._places = graph, self._where()
