"""Weights in eight or four bits, by optimum-quanto: what they are multiplied with keeps its type."""

from typing import Any

from torch import nn

from kandinsky.core.errors import RequestError, nearest
from kandinsky.engine.residence import Residence

WIDTHS = ("int8", "int4")
"""Eight bits with a scale for each row, or four with a scale and a shift for each group of numbers."""
SMALLEST = 32
"""Layers with fewer numbers going in or out stay as they are: they are small, and errors there show."""


def check_quantize(name: str | None) -> None:
    """Raises RequestError for weights that there are not, and where the library is missing."""
    if name is None:
        return
    if name not in WIDTHS:
        raise RequestError(f"Weights cannot be quantized to {name!r}.", nearest(str(name), WIDTHS))
    _library()


def quantize(network: nn.Module, width: str, residence: Residence) -> None:
    """Replaces the matrices and kernels of a network by quantized ones, and brings all else of it.

    They are brought one layer at a time, so that little is in memory at full width.
    """
    quanto = _library()
    for path, layer in list(network.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d) or min(layer.weight.shape[:2]) < SMALLEST:
            continue
        residence.bring(network, {f"{path}.{name}" for name in layer.state_dict()})
        kind = quanto.nn.QLinear if isinstance(layer, nn.Linear) else quanto.nn.QConv2d
        narrow = kind.from_module(layer, weights=quanto.qtypes[f"q{width}"])
        narrow.freeze()
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, narrow.train(layer.training))
    residence.bring(network)


def _library() -> Any:
    try:
        from optimum import quanto
    except ImportError as error:
        raise RequestError(
            "Quantized weights need the library optimum-quanto, which is not installed.",
            "pip install 'kandinsky-diffusion[quantize]'",
        ) from error
    return quanto
