"""Loads weights from their files while they are needed, and frees them afterwards."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.lazy_weights import LazyWeights, placed, portions
from kandinsky.core.events import Denoising, Events

T = TypeVar("T")


class WeightResidency:
    """Networks whose weights are loaded to `device` in `dtype` from where they are `stored`, and freed.

    A network that is away is on the meta device. What is brought is mapped from its file wherever the file
    holds it alike, and nothing is written back: networks must not be trained meanwhile.
    """

    def __init__(self, stored: Mapping[nn.Module, LazyWeights], device: torch.device, dtype: torch.dtype) -> None:
        self.stored, self.device, self.dtype = stored, device, dtype
        self._held: tuple[nn.Module | None, frozenset[str]] | None = None
        self._turn = Lock()

    def only(self, network: nn.Module | None = None, names: Collection[str] | None = None) -> None:
        """Loads the named tensors of one network (None: all), and frees all others."""
        wanted = frozenset(network.state_dict() if names is None else names) if network else frozenset()
        if self._held == (network, wanted):
            return
        self._held = None
        for other in self.stored:
            self.drop(other, other.state_dict().keys() - (wanted if other is network else frozenset()))
        if network is not None:
            self.bring(network, wanted)
        self._held = network, wanted

    def in_turns(self, events: Events) -> Events:
        """Yields `events`, which are computed by one thread at a time; all weights go at the end."""
        try:
            with closing(events):
                while True:
                    with self._turn:
                        event = next(events, None)
                    if event is None:
                        return
                    if isinstance(event, Denoising) and event.preview is not None:
                        event = replace(event, preview=partial(self._in_turn, event.preview))
                    yield event
        finally:
            # Where another request computes, weights go at its end. It may be on this very thread, which then is
            # collecting garbage, and would wait for itself.
            if not self._turn.locked():
                self._in_turn(self.only)

    def _in_turn(self, call: Callable[[], T]) -> T:
        with self._turn:
            return call()

    def bring(self, network: nn.Module, names: Collection[str] | None = None) -> None:
        """Loads those of the named tensors of a network (None: all) that are on the meta device."""
        known = network.state_dict()
        away = {n: t for n, t in known.items() if t.is_meta and (names is None or n in names)}
        if not away:
            return
        self._held = None
        self.stored[network].load_to(network, away, self.device, self.dtype)

    def fill(self, network: nn.Module, paths: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
        """Brings modules of a network, by their paths, one after the other, and yields each with its path.

        Nothing of them stays mapped; what the caller makes of one may take its place.
        """
        tensors = {f"{p}.{n}": t for p in paths for n, t in network.get_submodule(p).state_dict().items()}
        away = {name: tensor for name, tensor in tensors.items() if tensor.is_meta}
        found: dict[str, Tensor] = {}
        coming = portions(away)
        for path in paths:
            module = network.get_submodule(path)
            wanted = [name for name in module.state_dict() if f"{path}.{name}" in away]
            while any(f"{path}.{name}" not in found for name in wanted):
                found |= self.stored[network].read(next(coming))
            # Copied: a bias that stays would keep its whole file mapped.
            made = {name: placed(found.pop(f"{path}.{name}"), self.device, self.dtype).clone() for name in wanted}
            module.load_state_dict(made, strict=False, assign=True)
            yield path, module

    def drop(self, network: nn.Module, names: Collection[str] | None = None) -> None:
        """Frees the named tensors of a network (None: all)."""
        known = network.state_dict()
        here = {n: t for n, t in known.items() if not t.is_meta and (names is None or n in names)}
        if here:
            self._held = None
            network.load_state_dict({n: t.to("meta") for n, t in here.items()}, strict=False, assign=True)


def names_in(network: nn.Module, parts: Collection[nn.Module]) -> set[str]:
    """The names of the tensors of some modules of a network, and of those that belong to no module of it."""
    wanted = {id(module) for part in parts for module in part.modules()}
    found = {name for name, _ in network.named_parameters(recurse=False)}
    for path, module in network.named_modules():
        if id(module) in wanted:
            found |= {f"{path}.{name}" for name in module.state_dict() if "." not in name}
    return found


def bytes_of(network: nn.Module) -> int:
    """How much memory a network's weights take when they are there."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
