"""The running mean of the weights (Polyak averaging), with a warm-up that forgets the random start."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kandinsky.training.distributed import Copies, Layout


class Ema:
    """A float32 mean of everything in a module's state dict.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so early means follow quickly. Whole-number
    buffers are copied.
    """

    def __init__(self, module: nn.Module, decay: float, layout: Layout | None = None) -> None:
        self.decay, self.updates, self.layout = decay, 0, layout or Copies()
        self.mean = {
            name: value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
            for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes the module's present weights into the mean."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        means, values = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                means.append(self.layout.part(self.mean[name]))
                values.append(self.layout.part(value).float())
            else:
                self.mean[name].copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module holds the mean; afterwards its own weights again, bit for bit."""
        kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
        copy_into(module, self.mean)
        try:
            yield
        finally:
            copy_into(module, kept)


@torch.no_grad()
def copy_into(module: nn.Module, values: dict[str, Tensor], layout: Layout | None = None) -> None:
    """Copies `values` into a module's tensors in place, so that optimisers keep theirs; names must be
    equal. Where the module's are spread over processes, so are they.
    """
    layout = layout or Copies()
    state = module.state_dict()
    if state.keys() != values.keys():
        raise KeyError(f"names differ: {sorted(state.keys() ^ values.keys())}")
    for name, target in state.items():
        target.copy_(layout.like(values[name], target))
