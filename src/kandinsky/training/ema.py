"""The average of the weights (Polyak averaging), with a warm-up that forgets the random start.

torch's AveragedModel copies the module, which a sharded one refuses, and has no warm-up of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kandinsky.training.fsdp import local, sharded_like


class Ema:
    """A float32 average of everything in a module's state dict; whole-number buffers are copied.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so early averages follow quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.mean = {
            name: value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
            for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes the module's present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        means, values = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                means.append(local(self.mean[name]))
                values.append(local(value).float())
            else:
                self.mean[name].copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Gives the module the average; afterwards its own weights again, bit for bit."""
        kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
        copy_into(module, self.mean)
        try:
            yield
        finally:
            copy_into(module, kept)


@torch.no_grad()
def copy_into(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copies values into a module's tensors in place, so that optimisers keep theirs; names must be equal."""
    state = module.state_dict()
    if state.keys() != values.keys():
        raise KeyError(f"names differ: {sorted(state.keys() ^ values.keys())}")
    for name, target in state.items():
        target.copy_(sharded_like(values[name], target))
