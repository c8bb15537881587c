"""Low-rank adapters (LoRA): small learned changes of a network's layers, put on, scaled and taken off.

Sources: Hu et al. 2021, arXiv 2106.09685, section 4.1 (W + alpha / r * B A); Liu et al. 2024, arXiv
2402.09353, equation 5 (DoRA: the direction of that sum, times a learned length of each row).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kandinsky.core.errors import ConfigError, RequestError, nearest

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True, order=True)
class Place:
    """Rows of a layer's weight: part `part` of `parts` equal ones, at path `layer`. Networks hold projections fused
    that files adapt one by one."""

    layer: str
    part: int = 0
    parts: int = 1

    def rows(self, height: int) -> slice:
        """The rows it means in a weight of `height` rows."""
        step = height // self.parts
        return slice(self.part * step, (self.part + 1) * step)


class LowRank(nn.Module):
    """A change of one weight W (out, in, ...) by alpha / rank * up @ down.

    `down` is (rank, in, ...) and `up` (out, rank), with (1, 1) behind for a convolution. A `magnitude` (out,) rescales
    the changed rows to those lengths (DoRA). `dropout` acts on the input, in training.
    """

    def __init__(
        self, down: Tensor, up: Tensor, alpha: float, magnitude: Tensor | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.alpha, self.dropout = alpha, dropout

    @classmethod
    def new(cls, weight: Tensor, rank: int, alpha: float, dropout: float = 0.0, dora: bool = False) -> "LowRank":
        """A change of zero: `down` uniform as a fresh layer's weight, `up` zero; in float32."""
        down = torch.empty(rank, *weight.shape[1:], device=weight.device)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        up = torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2), device=weight.device)
        return cls(down, up, alpha, _lengths(weight.float()) if dora else None, dropout)

    @property
    def rank(self) -> int:
        """The inner width."""
        return int(self.down.shape[0])

    def forward(self, x: Tensor, layer: Layer, weight: Tensor, scale: float) -> Tensor:
        """The change of the output of `layer` for its input `x`; `weight` are the changed rows."""
        dtype, x = x.dtype, F.dropout(x.to(self.down.dtype), self.dropout, self.training)
        factor = scale * self.alpha / self.rank
        change = _apply(layer, x, self.down)
        change = factor * (F.linear(change, self.up) if weight.ndim == 2 else F.conv2d(change, self.up))
        if self.magnitude is not None:
            base = weight.to(self.down.dtype)
            # The length is a constant of the gradient (their section 4.3), which halves its memory.
            stretch = self.magnitude / _lengths(base + factor * self._product(base)).detach()
            if weight.ndim > 2:
                stretch = stretch[:, None, None]
            change = (stretch - 1) * _apply(layer, x, base) + stretch * change
        return change.to(dtype)

    def delta(self, weight: Tensor, scale: float) -> Tensor:
        """The change of the rows `weight`, in float32 or wider."""
        base = weight.to(torch.promote_types(weight.dtype, torch.float32))
        change = scale * self.alpha / self.rank * self._product(base)
        if self.magnitude is None:
            return change
        stretch = self.magnitude.to(base) / _lengths(base + change)
        return stretch.reshape(-1, *[1] * (weight.ndim - 1)) * (base + change) - base

    def _product(self, like: Tensor) -> Tensor:
        return (self.up.to(like).flatten(1) @ self.down.to(like).flatten(1)).reshape(like.shape)


class Adapter(nn.Module):
    """The changes of one network, by place; it holds all that is learned and nothing of the network."""

    def __init__(self, changes: Mapping[Place, LowRank]) -> None:
        super().__init__()
        self.places = tuple(sorted(changes))
        for place in self.places:
            self.add_module(_module_name(place), changes[place])

    @classmethod
    def new(
        cls,
        network: nn.Module,
        places: Iterable[Place],
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        dora: bool = False,
    ) -> "Adapter":
        """An adapter that changes nothing yet; `alpha` None is the rank. ConfigError for a rank below 1, a dropout
        outside [0, 1), or no place."""
        chosen = tuple(places)
        if rank < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                f"A low-rank adapter of rank {rank} and dropout {dropout} cannot be.",
                "The rank is at least 1, the dropout at least 0 and below 1.",
            )
        if not chosen:
            raise ConfigError("An adapter of no layer would learn nothing.", "Name layers of the network.")
        strength = float(rank if alpha is None else alpha)
        return cls({p: LowRank.new(_rows(network, p).detach(), rank, strength, dropout, dora) for p in chosen})

    def items(self) -> Iterator[tuple[Place, LowRank]]:
        """Places and their changes, in order."""
        for place in self.places:
            change = self.get_submodule(_module_name(place))
            assert isinstance(change, LowRank)
            yield place, change


def _module_name(place: Place) -> str:
    # Names of modules hold no dot.
    return f"{place.layer.replace('.', '/')}:{place.part}"


@dataclass
class AppliedLora:
    """One adapter's changes of one layer."""

    changes: tuple[tuple[Place, LowRank], ...]
    scale: float

    def forward(self, layer: Layer, x: Tensor, like: Tensor) -> Tensor | None:
        """The change of the layer's output, None at scale 0."""
        if not self.scale:
            return None
        axis, weight = (-1 if isinstance(layer, nn.Linear) else 1), layer.weight
        found: dict[int, Tensor] = {
            p.part: c(x, layer, weight[p.rows(len(weight))], self.scale) for p, c in self.changes
        }
        parts = self.changes[0][0].parts
        if parts == 1:
            return found[0]
        width = like.shape[axis] // parts
        empty = like.new_zeros(()).expand_as(like.narrow(axis, 0, width))
        return torch.cat([found.get(part, empty) for part in range(parts)], dim=axis)

    def merged(self, weight: Tensor) -> Tensor:
        """The change of the layer's weight, in float32 or wider."""
        total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for place, change in self.changes if self.scale else ():
            rows = place.rows(len(weight))
            total[rows] = change.delta(weight[rows], self.scale)
        return total


class AdapterSlot:
    """The adapters of a layer by name, and while they are merged its own weight."""

    def __init__(self) -> None:
        self.adapters: dict[str, AppliedLora] = {}
        self.own: Tensor | None = None

    def add(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output `y` for `x` with every change that is not merged already."""
        if self.own is not None:
            return y
        changes = [applied.forward(layer, x, y) for applied in self.adapters.values()]
        for change in changes:
            # Under autocast the input may be wider than what the layer makes of it.
            y = y if change is None else y + change.to(y.dtype)
        return y

    @torch.no_grad()
    def merge(self, layer: Layer) -> None:
        """Adds the changes to the weight, whose own numbers are kept aside."""
        if self.own is None:
            own = layer.weight.detach().clone()
            changes = [applied.merged(own) for applied in self.adapters.values()]
            total = sum(changes, torch.zeros((), device=own.device))
            layer.weight.copy_((own.to(total.dtype) + total).to(own.dtype))
            self.own = own

    @torch.no_grad()
    def unmerge(self, layer: Layer) -> None:
        """Restores the layer's weight, bit for bit."""
        if self.own is not None:
            layer.weight.copy_(self.own)
            self.own = None


class AdaptedLinear(nn.Linear):
    """A linear layer with a slot for adapters; it has the parameters of `base`, under the same names."""

    def __init__(self, base: nn.Linear) -> None:
        _take_over(self, base)
        self.slot, self.base = AdapterSlot(), (base,)

    def forward(self, x: Tensor) -> Tensor:
        return self.slot.add(self, x, super().forward(x))


class AdaptedConv(nn.Conv2d):
    """A convolution with a slot for adapters; it has the parameters of `base`, under the same names."""

    def __init__(self, base: nn.Conv2d) -> None:
        _take_over(self, base)
        self.slot, self.base = AdapterSlot(), (base,)

    def forward(self, x: Tensor) -> Tensor:
        return self.slot.add(self, x, super().forward(x))


def _take_over(layer: Layer, base: Layer) -> None:
    nn.Module.__init__(layer)
    layer.__dict__.update({k: v for k, v in base.__dict__.items() if k not in layer.__dict__})
    layer.weight, layer.bias = base.weight, base.bias


Adapted = AdaptedLinear | AdaptedConv


def attach(network: nn.Module, adapter: Adapter, name: str, scale: float = 1.0) -> None:
    """Adds an adapter to a network under a name: its layers compute W x + scale * change(x).

    The network's own tensors and its state dict stay as they are; merged adapters are unmerged first. Raises
    RequestError for a name in use, and for a place that the network lacks or that has another shape; then nothing is
    changed.
    """
    if name in applied_to(network):
        raise RequestError(f"An adapter {name!r} is loaded already.", "Unload it first, or choose another name.")
    grouped: dict[str, list[tuple[Place, LowRank]]] = {}
    for place, change in adapter.items():
        rows = _rows(network, place)
        if change.up.shape[0] != rows.shape[0] or change.down.shape[1:] != rows.shape[1:]:
            raise RequestError(
                f"The adapter changes {place.layer} as ({change.up.shape[0]}, {change.down.shape[1]}), "
                f"the network has {tuple(rows.shape)} there.",
                "It was made for a network of another size.",
            )
        grouped.setdefault(place.layer, []).append((place, change))
    unmerge(network)
    for path, changes in grouped.items():
        # A new table: another thread may be drawing with the old one.
        slot = _adapted(network, path).slot
        slot.adapters = {**slot.adapters, name: AppliedLora(tuple(changes), scale)}


def detach(network: nn.Module, name: str | None = None) -> None:
    """Removes one adapter, or all; the network is restored bit for bit. RequestError for a name that is not in use."""
    gone = list(applied_to(network))
    if name is not None:
        _check_applied(network, name)
        gone = [name]
    unmerge(network)
    for path, layer in list(_layers(network)):
        layer.slot.adapters = {one: kept for one, kept in layer.slot.adapters.items() if one not in gone}
        if not layer.slot.adapters:
            base = layer.base[0]
            # The parameters may have been replaced since, by a load or a move.
            base.weight, base.bias = layer.weight, layer.bias
            base.train(layer.training)
            _replace(network, path, base)


def set_scale(network: nn.Module, name: str, scale: float) -> None:
    """Changes an adapter's scale, 0 being exactly the network without it; merged adapters are unmerged first.
    RequestError for a name that is not in use."""
    _check_applied(network, name)
    unmerge(network)
    for _, layer in _layers(network):
        if name in layer.slot.adapters:
            layer.slot.adapters[name].scale = scale


def merge(network: nn.Module) -> None:
    """Adds all adapters to the weights, equal to rounding; the original weights are kept, so that `unmerge` is
    exact."""
    for _, layer in _layers(network):
        layer.slot.merge(layer)


def unmerge(network: nn.Module) -> None:
    """Undoes `merge` to the last bit; without one it does nothing."""
    for _, layer in _layers(network):
        layer.slot.unmerge(layer)


def applied_to(network: nn.Module) -> dict[str, float]:
    """The names and scales of the adapters of a network."""
    slots = [layer.slot.adapters for _, layer in _layers(network)]
    return {name: applied.scale for adapters in slots for name, applied in adapters.items()}


def adapter_of(network: nn.Module, name: str) -> Adapter:
    """The adapter of a network under a name; RequestError when there is none of that name."""
    _check_applied(network, name)
    found = (layer.slot.adapters.get(name) for _, layer in _layers(network))
    return Adapter({place: change for one in found if one is not None for place, change in one.changes})


def _check_applied(network: nn.Module, name: str) -> None:
    if name not in (known := applied_to(network)):
        raise RequestError(f"No adapter {name!r} is loaded.", nearest(name, known) if known else "None is.")


def _layers(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    for path, module in network.named_modules():
        if isinstance(module, AdaptedLinear | AdaptedConv):
            yield path, module


def _rows(network: nn.Module, place: Place) -> Tensor:
    """The rows of a place; RequestError when the network has no such layer."""
    try:
        layer = network.get_submodule(place.layer)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise RequestError(
            f"The network has no linear layer or convolution {place.layer!r}.",
            "The adapter was made for another network.",
        )
    return layer.weight[place.rows(len(layer.weight))]


def _adapted(network: nn.Module, path: str) -> Adapted:
    """The layer at a path, with a slot for adapters."""
    layer = network.get_submodule(path)
    if isinstance(layer, AdaptedLinear | AdaptedConv):
        return layer
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    adapted = AdaptedLinear(layer) if isinstance(layer, nn.Linear) else AdaptedConv(layer)
    adapted.train(layer.training)
    _replace(network, path, adapted)
    return adapted


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _apply(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """`weight` used as `layer` uses its own, without a bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _lengths(weight: Tensor) -> Tensor:
    """The Euclidean length of each row, (out,)."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths
