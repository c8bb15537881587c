"""Floating-point operations of products, convolutions and attention, whichever kernels do them."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def counter() -> FlopCounterMode:
    """Counts what is done while it is entered; `get_total_flops` tells how much so far.

    Beside what torch knows: the CPU's own kernel of attention, and oneDNN's products and convolutions by
    packed weights.
    """
    own = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.mkldnn._linear_pointwise: _linear,
        torch.ops.mkldnn._convolution_pointwise: _convolution,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _linear(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * out_val.numel() * x.shape[-1]


def _convolution(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * out_val.numel() * math.prod(weight.shape[1:])


for _formula in (_attention, _linear, _convolution):
    # They are given tensors, where others are given shapes.
    _formula.__dict__["_get_raw"] = True
