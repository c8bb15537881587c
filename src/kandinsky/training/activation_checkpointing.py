"""Activation checkpointing: blocks are run again on the way back (Chen et al. 2016, arXiv 1604.06174)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kandinsky.core.errors import ConfigError
from kandinsky.networks.blocks import RECOMPUTED

T = TypeVar("T")

Inside = Callable[[], AbstractContextManager[object]]


def recompute(network: nn.Module, inside: Inside = nullcontext) -> None:
    """Lets a network's blocks keep only their inputs while gradients are wanted; its results are the same.

    Blocks are run again `inside` a context. Doing it again changes nothing. Raises ConfigError for a network
    without such blocks.
    """
    blocks = [module for module in network.modules() if type(module) in RECOMPUTED]
    if not blocks:
        raise ConfigError(
            f"{type(network).__name__} has no blocks to run again.", "Set gradient_checkpointing = false."
        )
    for block in blocks:
        for name in RECOMPUTED[type(block)]:
            if name not in vars(block):
                setattr(block, name, partial(_run, getattr(block, name), inside))


def _run(call: Callable[..., T], inside: Inside, *given: object) -> T:
    if not torch.is_grad_enabled():
        return call(*given)
    result: T = checkpoint(call, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), inside()))
    return result
