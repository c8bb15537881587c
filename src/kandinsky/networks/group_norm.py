"""Group norm with what networks do to its output, as few passes over memory as the device allows."""

import warnings
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST_GROUP = 128
"""Kernels of our own take groups of so many channels at most; published networks have 96."""
LARGE = 2**19
"""From this many positions on torch's sums over a float32 picture with its channels innermost are off by more
than 1e-4 of a norm's output, by 0.002 for 1024 x 1024 and 0.02 for 2048 x 2048 (torch 2.13)."""
TOLERANCE = 0.02
"""How far the kernels may be from plain layers, in parts of the largest number: bfloat16 rounds to 0.004."""


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

        with torch.cuda.device(x.device):
            return fused_group_norm(x, groups, eps, weight, bias, film, modulation, silu, WIDEST_GROUP)
    x = (_by_lines if _is_large(x) else F.group_norm)(x, groups, weight, bias, eps)
    if film is not None:
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        x = torch.addcmul(shift, x, 1 + scale)
    if modulation is not None:
        scale, shift = F.interpolate(modulation, size=x.shape[-2:], mode="nearest").chunk(2, dim=1)
        x = torch.addcmul(shift, x, scale)
    return F.silu(x) if silu else x


def _is_large(x: Tensor) -> bool:
    innermost = x.is_contiguous(memory_format=torch.channels_last)
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and x.shape[2] * x.shape[3] >= LARGE and innermost


def _by_lines(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`F.group_norm` whose sums are taken line by line and joined in double precision (Chan et al. 1979)."""
    b, c, h, w = x.shape
    each = c // groups
    lines = x.permute(0, 2, 3, 1)
    means = lines.mean(2).double()
    squares = torch.linalg.vector_norm(lines, dim=2).double().square() - w * means.square()
    means = means.view(b, h, groups, each)
    mean = means.mean(dim=(1, 3))
    within = squares.view(b, h, groups, each).sum(dim=(1, 3)) / w
    between = (means - mean[:, None, :, None]).square().sum(dim=(1, 3))
    scale, shift = factors(mean, (within + between) / (h * each), each, eps, weight, bias)
    return torch.addcmul(shift.to(x), x, scale.to(x))


def factors(
    mean: Tensor, variance: Tensor, each: int, eps: float, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What a group norm multiplies each channel by and what it adds then, (B, C, 1, 1) in double precision.

    `mean` and `variance` (B, groups), in double precision, are those of groups of `each` channels.
    """
    scale = (variance + eps).rsqrt().repeat_interleave(each, dim=1)
    shift = -mean.repeat_interleave(each, dim=1) * scale
    if weight is not None and bias is not None:
        scale, shift = scale * weight.double(), shift * weight.double() + bias.double()
    return scale[:, :, None, None], shift[:, :, None, None]


def normed(norm: nn.GroupNorm, x: Tensor, *, film: Tensor | None = None, silu: bool = False) -> Tensor:
    """`group_norm` by a layer's numbers."""
    return group_norm(x, norm.num_groups, norm.eps, norm.weight, norm.bias, film=film, silu=silu)


def runs_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether norms of this dtype run as kernels of our own on a device: in half precision on CUDA, where
    Triton is.

    These want channels innermost, which convolutions in half precision want there too. When it is asked for
    the first time, the kernels are compared with plain layers; they stay out of use, with a warning, where
    they fail or give other numbers.
    """
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and _works(device, dtype)


def _is_fused(x: Tensor, groups: int, modulation: Tensor | None) -> bool:
    # What compiles fuses by itself, and what is differentiated needs the steps between.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not runs_fused(x.device, x.dtype):
        return False
    if x.shape[1] > groups * WIDEST_GROUP or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if modulation is None:
        return True
    (h, w), (low, narrow) = x.shape[2:], modulation.shape[2:]
    return h % low == 0 and w % narrow == 0 and h // low == w // narrow


@cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    if find_spec("triton") is None:
        return False
    try:
        with torch.no_grad(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            reason = None if _is_right(device, dtype) else "they give other numbers"
    except Exception as error:
        # Whatever a compiler for this very device says: plain layers do as well.
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if reason is not None:
        warnings.warn(f"Norms run by plain layers on {device}, which takes longer: {reason}.", stacklevel=2)
    return reason is None


def _is_right(device: torch.device, dtype: torch.dtype) -> bool:
    from kandinsky.networks.norm_kernels import fused_group_norm

    b, c, h, w, groups = 2, 96, 12, 20, 32
    numbers = torch.arange(b * c * h * w, dtype=torch.float32).sin()
    x = (3 * numbers + 1).view(b, c, h, w).contiguous(memory_format=torch.channels_last).to(device, dtype)
    weight, bias = (numbers[i : i + c].to(device, dtype) for i in (0, c))
    film = numbers[: b * 2 * c].view(b, -1).to(device, dtype)
    places = numbers[: b * 2 * c * 15].view(b, -1, 3, 5)
    modulation = places.contiguous(memory_format=torch.channels_last).to(device, dtype)
    # All that networks ask for.
    for own, told, beside in (
        ((weight, bias), None, None),
        ((weight, bias), film, None),
        ((weight, bias), None, modulation),
        ((None, None), film, None),
    ):
        for silu in (False, True):
            found = fused_group_norm(x, groups, 1e-5, own[0], own[1], told, beside, silu, WIDEST_GROUP)
            # float32 takes the plain way.
            wide = [None if tensor is None else tensor.float() for tensor in (x, *own, told, beside)]
            assert wide[0] is not None
            plain = group_norm(
                wide[0], groups, 1e-5, wide[1], wide[2], film=wide[3], modulation=wide[4], silu=silu
            )
            if not (found.float() - plain).abs().max() <= TOLERANCE * plain.abs().max():
                return False
    return True
