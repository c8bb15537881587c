"""Names in a file <-> names in our networks, both ways and strictly.

A map is data: a tuple of entries. An entry pairs one native name with the foreign name or names that hold
the same numbers. Names are templates: `{i}` stands for a whole number, `{p}` for `weight` or `bias`, `{w}`
for one word without a dot.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError

_PATTERNS = {"p": r"weight|bias", "w": r"[^.]+"}


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


def _compile(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    pattern, seen = "", set[str]()
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            pattern += re.escape(piece)
        elif piece in seen:
            pattern += f"(?P={piece})"
        else:
            seen.add(piece)
            pattern += f"(?P<{piece}>{_PATTERNS.get(piece, r'[0-9]+')})"
    return re.compile(pattern)


class KeyMap:
    """A two-way, strict renaming of state dicts; `ignored` are foreign names of no use to a network."""

    def __init__(self, entries: Iterable[Entry], ignored: Iterable[str] = ()) -> None:
        self.entries = tuple(entries)
        self._ignored = tuple(_compile(name) for name in ignored)

    @cached_property
    def _from_foreign(self) -> list[tuple[re.Pattern[str], Entry, int]]:
        return [(_compile(name), e, k) for e in self.entries for k, name in enumerate(e.foreign)]

    @cached_property
    def _from_native(self) -> list[tuple[re.Pattern[str], Entry]]:
        return [(_compile(e.native), e) for e in self.entries]

    def foreign_names(self, native: str) -> list[str] | None:
        """The foreign names for one native name, or None when no entry knows it."""
        for pattern, entry in self._from_native:
            if match := pattern.fullmatch(native):
                return [name.format(**match.groupdict()) for name in entry.foreign]
        return None

    def stacked_names(self, native: str) -> list[str]:
        """The foreign names of one native name whose rows are the native ones, one part above the other.

        Empty for a name that no entry knows, and for a tensor that lies otherwise in the file.
        """
        for pattern, entry in self._from_native:
            if (match := pattern.fullmatch(native)) and entry.layout in (SAME, STACKED):
                return [name.format(**match.groupdict()) for name in entry.foreign]
        return []

    def to_native(self, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames a file's tensors to ours.

        Raises CheckpointError when names are unknown or when only a part of a stacked tensor is there.
        """
        native: dict[str, Tensor] = {}
        partial: dict[str, tuple[Layout, list[str], dict[int, Tensor]]] = {}
        unknown = []
        for name, tensor in foreign.items():
            if any(pattern.fullmatch(name) for pattern in self._ignored):
                continue
            for pattern, entry, position in self._from_foreign:
                if match := pattern.fullmatch(name):
                    target = entry.native.format(**match.groupdict())
                    wanted = [part.format(**match.groupdict()) for part in entry.foreign]
                    if len(wanted) == 1:
                        native[target] = entry.layout.pack([tensor])
                    else:
                        partial.setdefault(target, (entry.layout, wanted, {}))[2][position] = tensor
                    break
            else:
                unknown.append(name)
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
            for pattern, entry in self._from_native:
                if match := pattern.fullmatch(name):
                    targets = [t.format(**match.groupdict()) for t in entry.foreign]
                    foreign.update(zip(targets, entry.layout.unpack(tensor, len(targets)), strict=True))
                    break
            else:
                raise CheckpointError(
                    f"{name} has no name in this format.", "This network cannot be written to it."
                )
        return foreign


def summary(names: Iterable[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
