"""Networks whose weights, gradients, averages and optimiser states are sharded over processes.

Zhao et al. 2023, arXiv 2304.11277 (FSDP), in the form of `torch.distributed.fsdp.fully_shard`. A network is
one unit: its weights are gathered while it runs, and sharded again when its gradients have been averaged.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kandinsky.networks.blocks import OUTPUTS
from kandinsky.training.distributed import World

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def requested() -> bool:
    """Whether a launcher asks for it (`accelerate launch --use_fsdp`)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1", "yes")


@cache
def _register_outputs() -> None:
    """Some versions of torch (2.11 is one) find the tensors of a network's output only in containers that
    are registered, and a network in whose output they find none gets no gradients.
    """
    from torch.export import register_dataclass

    for output in OUTPUTS:
        register_dataclass(output)


class ShardedNetworks:
    """Networks that are sharded in place; all processes call its methods together."""

    def __init__(self, networks: Sequence[nn.Module], world: World, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        _register_outputs()
        mesh = init_device_mesh(device.type, (world.size,))
        self._networks: list[tuple[nn.Module, type, type]] = []
        for network in networks:
            # What does not learn has no state to save memory on, and some of it is read outside of `forward`.
            fixed = {value for value in network.parameters() if not value.requires_grad}
            plain = type(network)
            fully_shard(network, mesh=mesh, ignored_params=fixed, reshard_after_forward=False)
            self._networks.append((network, plain, type(network)))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gives every process whole networks, any part of which it may call."""
        for network, plain, _ in self._networks:
            cast("FSDPModule", network).unshard()
            # Sharded ones cannot be copied, which drawing does.
            network.__class__ = plain
        try:
            yield
        finally:
            for network, _, sharded in self._networks:
                network.__class__ = sharded
                cast("FSDPModule", network).reshard()


def _is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    if not dist.is_initialized():
        return False  # Nothing is sharded then, and the import takes long.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full(tensor: Tensor) -> Tensor:
    """All of a tensor, in every process."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def sharded_like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor that every process has, sharded as `target` is."""
    if not _is_sharded(target) or _is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(target.device, target.dtype)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
