"""Networks that live in main memory and visit the accelerator: whole, or layer by layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Offload:
    """What is offloaded to where; `loaded` brings networks to `device`, `remove` undoes all of it."""

    modules: Mapping[str, nn.Module]
    device: torch.device
    whole: bool
    hooks: list[Any] = field(default_factory=list)

    @contextmanager
    def loaded(self, names: Sequence[str]) -> Iterator[None]:
        """The named networks are on the accelerator until the block ends, however it ends."""
        if not self.whole:
            yield
            return
        try:
            for name in names:
                self.modules[name].to(self.device)
            yield
        finally:
            for name in names:
                self.modules[name].to("cpu")

    def seen_with(self, prefix: str) -> "Offload":
        """The same for a pipeline that knows the networks whose names begin with `prefix` without it."""
        names = {name.removeprefix(prefix): one for name, one in self.modules.items() if name.startswith(prefix)}
        return Offload(names, self.device, self.whole)

    def remove(self) -> None:
        """Everything stays where it is from now on."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()


def whole(modules: Mapping[str, nn.Module], device: torch.device) -> Offload:
    """Whole networks visit the accelerator, while their pipeline needs them."""
    return Offload(modules, device, whole=True)


def layered(modules: Mapping[str, nn.Module], device: torch.device) -> Offload:
    """Single layers visit the accelerator, each for its own call; parameters outside of layers stay there."""
    made = Offload(modules, device, whole=False)
    for module in modules.values():
        for layer in module.modules():
            if not any(True for _ in layer.parameters(recurse=False)):
                continue
            if any(True for _ in layer.children()):
                for parameter in layer.parameters(recurse=False):
                    parameter.data = parameter.data.to(device)
                continue
            made.hooks.append(layer.register_forward_pre_hook(_fetcher(device)))
            made.hooks.append(layer.register_forward_hook(_put_back, always_call=True))
    return made


def _fetcher(device: torch.device) -> Callable[..., Any]:
    """Moves a layer and what it is called with."""

    def fetch(layer: nn.Module, arguments: tuple[object, ...]) -> tuple[Any, ...]:
        layer.to(device)
        return tuple(one.to(device) if isinstance(one, Tensor) else one for one in arguments)

    return fetch


def _put_back(layer: nn.Module, *_: object) -> None:
    layer.to("cpu")
