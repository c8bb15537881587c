"""Quantizes weights to eight or four bits with optimum-quanto; activations keep their dtype.

torchao (0.18) leaves convolutions as they are, which hold most of a U-Net, and needs another library for four bits.
"""

from importlib import import_module
from typing import Any, cast

import torch
from torch import nn

from kandinsky.core.errors import RequestError, nearest
from kandinsky.engine.weight_residency import WeightResidency

WIDTHS = ("int8", "int4")
"""Eight bits with a scale for each row, or four with a scale and a shift for each group of numbers."""
SMALLEST = 32
"""Layers with fewer numbers going in or out stay as they are: they are small, and errors there show."""


def check_quantize(name: str | None) -> None:
    """Raises RequestError for an unknown width, and where the library is missing."""
    if name is None:
        return
    if name not in WIDTHS:
        raise RequestError(f"Weights cannot be quantized to {name!r}.", nearest(str(name), WIDTHS))
    _library()


def quantize(network: nn.Module, width: str, residence: WeightResidency) -> None:
    """Replaces the linear and convolution layers of a network by quantized ones, and loads all its other weights.

    They are brought one layer at a time, so that little is in memory at full width.
    """
    quanto = _library()
    paths = [path for path, layer in network.named_modules() if _is_wide(layer)]
    theirs = {f"{path}.{name}" for path in paths for name in network.get_submodule(path).state_dict()}
    # Before: what the library makes of a layer is costly to list and to look through.
    residence.bring(network, network.state_dict().keys() - theirs)
    for path, layer in residence.fill(network, paths):
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, narrowed(quanto, cast(nn.Linear | nn.Conv2d, layer), width))


def _is_wide(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d) and min(layer.weight.shape[:2]) >= SMALLEST


@torch.no_grad()
def narrowed(quanto: Any, layer: nn.Linear | nn.Conv2d, width: str) -> Any:
    """The same layer with weights of one of the `WIDTHS`, by the library's module."""
    kind = quanto.nn.QLinear if isinstance(layer, nn.Linear) else quanto.nn.QConv2d
    narrow = kind.from_module(layer, weights=quanto.qtypes[f"q{width}"])
    narrow.freeze()
    return narrow.train(layer.training)


def _library() -> Any:
    try:
        return import_module("optimum.quanto")
    except ImportError as error:
        raise RequestError(
            "Quantized weights need the library optimum-quanto, which is not installed.",
            "pip install 'kandinsky-diffusion[quantize]'",
        ) from error
