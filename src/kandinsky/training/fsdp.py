"""Networks whose weights, gradients, running means and optimiser states are spread over processes.

Zhao et al. 2023, arXiv 2304.11277 (FSDP), in the form of `torch.distributed.fsdp.fully_shard`. A network is
one unit: its weights are put together while it runs, and spread again when its gradients have been averaged.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.export import register_dataclass

from kandinsky.networks.clip import ClipTextFeatures
from kandinsky.training.distributed import World

# Some versions of torch (2.11 is one) find the tensors of a network's answer only in containers that they
# were told of, and a network in whose answer they find none gets no gradients.
register_dataclass(ClipTextFeatures)


class Spread:
    """The layout of networks that are spread over processes; all of them call its methods together."""

    spread = True

    def __init__(self, networks: Sequence[nn.Module], world: World, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (world.size,))
        self._networks: list[tuple[nn.Module, type, type]] = []
        for network in networks:
            # What does not learn has no state to save memory on, and some of it is read outside of `forward`.
            fixed = {value for value in network.parameters() if not value.requires_grad}
            plain = type(network)
            fully_shard(network, mesh=mesh, ignored_params=fixed, reshard_after_forward=False)
            self._networks.append((network, plain, type(network)))

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor, in every process."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor, in the same memory."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def like(self, value: Tensor, target: Tensor) -> Tensor:
        """A whole tensor that every process has, spread as `target` is."""
        if not isinstance(target, DTensor) or isinstance(value, DTensor):
            return value
        value = value.to(target.device, target.dtype)
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, every process has whole networks and may call any part of them."""
        for network, plain, _ in self._networks:
            cast(FSDPModule, network).unshard()
            # Those that are spread cannot be copied, which drawing does.
            network.__class__ = plain
        try:
            yield
        finally:
            for network, _, spread in self._networks:
                network.__class__ = spread
                cast(FSDPModule, network).reshard()
