"""Group norm with what networks do to its output, as few passes over memory as the device allows."""

from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST_GROUP = 128
"""Kernels of our own take groups of so many channels at most; published networks have 96."""


def group_norm(
    x: Tensor,
    groups: int,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    film: Tensor | None = None,
    modulation: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """Group norm (Wu and He 2018, arXiv 1803.08494) of x (B, C, h, w), then a modulation, then SiLU.

    `weight` and `bias` (C,) are the norm's own, given both or neither. `film` (B, 2 C) holds a scale s and a
    shift: n (1 + s) + shift. `modulation` (B, 2 C, h / k, w / k) holds them at each place, upsampled to the
    nearest: n s + shift.
    """
    if _is_fused(x, groups, modulation):
        from kandinsky.networks.norm_kernels import fused_group_norm

        return fused_group_norm(x, groups, eps, weight, bias, film, modulation, silu, WIDEST_GROUP)
    x = F.group_norm(x, groups, weight, bias, eps)
    if film is not None:
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        x = torch.addcmul(shift, x, 1 + scale)
    if modulation is not None:
        scale, shift = F.interpolate(modulation, size=x.shape[-2:], mode="nearest").chunk(2, dim=1)
        x = torch.addcmul(shift, x, scale)
    return F.silu(x) if silu else x


def normed(norm: nn.GroupNorm, x: Tensor, *, film: Tensor | None = None, silu: bool = False) -> Tensor:
    """`group_norm` by a layer's numbers."""
    return group_norm(x, norm.num_groups, norm.eps, norm.weight, norm.bias, film=film, silu=silu)


def runs_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether norms of this dtype run as kernels of our own on a device: in half precision on CUDA.

    These want channels innermost, which convolutions in half precision want there too.
    """
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and _has_triton()


def _is_fused(x: Tensor, groups: int, modulation: Tensor | None) -> bool:
    # What compiles fuses by itself, and what is differentiated needs the steps between.
    if not runs_fused(x.device, x.dtype) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if x.shape[1] > groups * WIDEST_GROUP or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if modulation is None:
        return True
    (h, w), (low, narrow) = x.shape[2:], modulation.shape[2:]
    return h % low == 0 and w % narrow == 0 and h // low == w // narrow


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
