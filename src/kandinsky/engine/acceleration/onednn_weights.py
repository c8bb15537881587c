"""Weights in the order in which oneDNN multiplies by them, laid out once for many steps on a CPU.

A plain convolution or matrix product lays its weight out anew at each call. With few rows, as in a prior's
step or at a U-Net's deepest resolution, that costs as much as the product itself.
"""

import copy
import platform
from collections.abc import Callable, Collection
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from kandinsky.core.system import free_main_memory

FEWEST_STEPS = 5
"""From this many steps on: laying weights out costs about what a step saves by it."""
ROOM = 0.5
"""Packed weights come on top of the plain ones: they may take this share of the memory that is free."""
N = TypeVar("N")
Run = Callable[[Tensor], Tensor]


def prepacked(network: N, steps: int, without: Collection[nn.Module] = ()) -> N:
    """The same network for `steps` calls, its convolutions and matrices laid out for this processor.

    All else is shared with `network`, which stays as it is; the copy is worth keeping for one request only, since it
    does not see later changes of packed weights. Modules in `without` keep theirs, as do layers that are not plain ones
    (adapted, quantized, hooked), whose weights are away, or of a type that is not packed. Where nothing can be packed,
    for fewer than `FEWEST_STEPS` steps, and where memory is short, it is `network` itself.
    """
    if steps < FEWEST_STEPS or not has_onednn():
        return network
    module, free = cast(nn.Module, network), free_main_memory()
    if free is not None and _bytes_of(module) > ROOM * free:
        return network
    return cast(N, _twin(module, {id(part) for part in without}))


def _bytes_of(network: nn.Module) -> int:
    """How much memory packed weights of all of a network take."""
    here = (parameter for parameter in network.parameters() if parameter.device.type == "cpu")
    return sum(parameter.numel() * parameter.element_size() for parameter in here)


def has_onednn() -> bool:
    """Whether this build of torch multiplies by oneDNN on a processor for which that was measured."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and platform.machine().lower() in ("x86_64", "amd64")


def _twin(module: nn.Module, skipped: set[int]) -> nn.Module:
    if id(module) in skipped:
        return module
    if type(module) in (nn.Linear, nn.Conv2d):
        return _packed_layer(module)
    children = {name: child and _twin(child, skipped) for name, child in module._modules.items()}
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin


def _packed_layer(layer: nn.Module) -> nn.Module:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    watched = layer._forward_hooks or layer._forward_pre_hooks
    if weight.device.type != "cpu" or not _is_packable(weight.dtype) or watched:
        return layer
    if isinstance(layer, nn.Linear):
        return PackedLayer(layer, _product(layer))
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return layer
    pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return PackedLayer(layer, _product_of_channels(layer) if pointwise else _convolution(layer))


def _is_packable(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLayer(nn.Module):
    """`layer` by its weight packed, which `run` holds; where gradients are recorded it is `layer` itself."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, run: Run) -> None:
        super().__init__()
        # Not as a module: its tensors belong to the network that was packed.
        self._own = (layer,)
        self._run = run

    @property
    def weight(self) -> Tensor:
        """The layer's own."""
        return self._own[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's own; the layer itself computes what autocast gives in another dtype."""
        (layer,) = self._own
        plain = torch.is_grad_enabled() or x.dtype != layer.weight.dtype
        y: Tensor = layer(x) if plain else self._run(x)
        return y


def _product(layer: nn.Linear | nn.Conv2d) -> Run:
    """(..., in) -> (..., out), by a linear layer or the matrix of a convolution of one pixel."""
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().flatten(1))

    def run(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")
        return y

    return run


def _product_of_channels(layer: nn.Conv2d) -> Run:
    """A 1x1 convolution as the product it is: packed as a convolution it can take ten times as long."""
    product = _product(layer)
    return lambda x: product(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def _convolution(layer: nn.Conv2d) -> Run:
    """(B, C, h, w) -> (B, C', h', w').

    The order depends on the input's size: that for any size can take sixty times as long. So the weight is
    packed for the first input, and again for one of another size.
    """
    shape = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    plain, bias = layer.weight.detach(), layer.bias
    packed: tuple[torch.Size, Tensor] | None = None

    def run(x: Tensor) -> Tensor:
        nonlocal packed
        if packed is None or packed[0] != x.shape:
            # Looked up at each use: it has no typed name.
            order: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
            packed = x.shape, order(plain.to_mkldnn(), *shape, list(x.shape))
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed[1], bias, *shape, "none", [], "")
        return y

    return run
