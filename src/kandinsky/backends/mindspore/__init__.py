"""The networks on MindSpore, over the same weights; the loop, samplers, guidance and conditions stay torch's."""

from collections.abc import Mapping

import mindspore as ms
import torch
from torch import nn

from kandinsky.backends.mindspore.host import Host
from kandinsky.backends.mindspore.weights import DTYPES
from kandinsky.checkpoints.lazy_weights import CPU, LazyWeights
from kandinsky.core.errors import RequestError
from kandinsky.generations.model import Model

TARGETS = {"cpu": "CPU", "ascend": "Ascend"}
"""MindSpore's names of the devices."""
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_SHORT = {"fp32": "float32", "fp16": "float16", "half": "float16"}


def place(device: object, dtype: object) -> tuple[torch.device, torch.dtype]:
    """See `place_on`: the device is "cpu", "ascend" or "ascend:1", by default the best there is; the dtype float32 (the
    default on a CPU) or float16 (on Ascend)."""
    there = {"ascend"} if ms.hal.is_available("Ascend") else set()
    asked = ("ascend" if there else "cpu") if device in (None, "auto") else str(device).lower()
    kind, _, index = asked.partition(":")
    if kind not in TARGETS or (index and not index.isdigit()):
        raise RequestError(f"MindSpore does not run on {str(device)!r} here.", "Use cpu or ascend.")
    if kind not in {*there, "cpu"}:
        raise RequestError("Ascend is not on this machine.", "Leave device out, or use cpu.")
    if kind == "ascend":
        ms.set_device("Ascend", int(index or 0))
    else:
        ms.set_device("CPU")
    if dtype in (None, "auto"):
        return CPU, torch.float32 if kind == "cpu" else torch.float16
    name = str(dtype).removeprefix("torch.").lower()
    name = _SHORT.get(name, name)
    if name not in _NAMES:
        raise RequestError(f"MindSpore does not compute in {str(dtype)!r} here.", f"Use {' or '.join(_NAMES)}.")
    return CPU, _NAMES[name]


def hosted(model: Model, stored: Mapping[nn.Module, LazyWeights]) -> Model:
    """A model whose networks run on MindSpore; it has no modules, and none of its weights in torch.

    Raises RequestError for a model one of whose networks has no form there.
    """
    return Host(model, stored).hosted()
