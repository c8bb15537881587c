"""Names in a file <-> names in our networks, both ways and strictly.

A map is data: a tuple of entries. An entry pairs one native name with the foreign name or names that hold
the same numbers. Names are templates: `{i}` stands for a whole number, `{p}` for `weight` or `bias`, `{w}`
for one word without a dot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.checkpoints.name_templates import Templates
from kandinsky.core.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """How the tensors of the foreign names lie in the one native tensor."""

    name: str
    pack: Callable[[Sequence[Tensor]], Tensor]
    unpack: Callable[[Tensor, int], list[Tensor]]


def _chunk(native: Tensor, parts: int) -> list[Tensor]:
    return [part.contiguous() for part in native.chunk(parts, dim=0)]


SAME = Layout("same", lambda parts: parts[0], lambda native, _: [native])
STACKED = Layout("stacked", lambda parts: torch.cat(list(parts), dim=0), _chunk)
"""Several foreign tensors of equal height, one above the other (a fused q, k, v projection)."""


@dataclass(frozen=True)
class Entry:
    """One native name template, the foreign name templates with the same numbers, and how they lie in it."""

    native: str
    foreign: tuple[str, ...]
    layout: Layout = SAME


def rename(native: str, foreign: str) -> Entry:
    """The same tensor under another name."""
    return Entry(native, (foreign,))


def stack(native: str, *foreign: str) -> Entry:
    """Foreign tensors that our network holds as one, stacked on the first axis in this order."""
    return Entry(native, foreign, STACKED)


class KeyMap:
    """A two-way, strict renaming of state dicts; `ignored` are foreign names of no use to a network."""

    def __init__(self, entries: Iterable[Entry], ignored: Iterable[str] = ()) -> None:
        self.entries = tuple(entries)
        self._ignored = Templates(ignored)
        self._places = [(entry, k) for entry in self.entries for k in range(len(entry.foreign))]

    @cached_property
    def _from_foreign(self) -> Templates:
        return Templates(entry.foreign[k] for entry, k in self._places)

    @cached_property
    def _from_native(self) -> Templates:
        return Templates(entry.native for entry in self.entries)

    def foreign_names(self, native: str) -> list[str] | None:
        """The foreign names for one native name, or None when no entry knows it."""
        for position, values in self._from_native.matches(native):
            return [name.format(**values) for name in self.entries[position].foreign]
        return None

    def stacked_names(self, native: str) -> list[str]:
        """The foreign names of one native name whose rows are the native ones, one part above the other.

        Empty for a name that no entry knows, and for a tensor that lies otherwise in the file.
        """
        for position, values in self._from_native.matches(native):
            entry = self.entries[position]
            if entry.layout in (SAME, STACKED):
                return [name.format(**values) for name in entry.foreign]
        return []

    def to_native(self, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames a file's tensors to ours.

        Raises CheckpointError when names are unknown or when only a part of a stacked tensor is there.
        """
        native: dict[str, Tensor] = {}
        partial: dict[str, tuple[Layout, list[str], dict[int, Tensor]]] = {}
        unknown = []
        for name, tensor in foreign.items():
            if next(self._ignored.matches(name), None):
                continue
            place, values = next(self._from_foreign.matches(name), (None, {}))
            if place is None:
                unknown.append(name)
                continue
            entry, position = self._places[place]
            target = entry.native.format(**values)
            if len(entry.foreign) == 1:
                native[target] = entry.layout.pack([tensor])
            else:
                wanted = [part.format(**values) for part in entry.foreign]
                partial.setdefault(target, (entry.layout, wanted, {}))[2][position] = tensor
        if unknown:
            raise CheckpointError(
                f"{len(unknown)} tensors have names this network does not know: {summary(unknown)}.",
                "Is this a file of another model?",
            )
        missing = [
            name for _, wanted, parts in partial.values() for k, name in enumerate(wanted) if k not in parts
        ]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors are missing beside others of their kind: {summary(missing)}.",
                "The file is incomplete; download it again.",
            )
        for target, (layout, wanted, parts) in partial.items():
            shapes = {tuple(part.shape) for part in parts.values()}
            if len(shapes) > 1:
                raise CheckpointError(
                    f"{', '.join(wanted)} have different shapes: {', '.join(map(str, sorted(shapes)))}.",
                    "The file is damaged or of another model.",
                )
            native[target] = layout.pack([parts[k] for k in range(len(parts))])
        return native

    def to_foreign(self, native: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames our tensors to a file's; raises CheckpointError for a name the map lacks."""
        foreign: dict[str, Tensor] = {}
        for name, tensor in native.items():
            position, values = next(self._from_native.matches(name), (None, {}))
            if position is None:
                raise CheckpointError(
                    f"{name} has no name in this format.", "This network cannot be written to it."
                )
            entry = self.entries[position]
            targets = [target.format(**values) for target in entry.foreign]
            foreign.update(zip(targets, entry.layout.unpack(tensor, len(targets)), strict=True))
        return foreign


def summary(names: Iterable[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
