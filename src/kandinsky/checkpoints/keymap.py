"""Names in a file <-> names in our networks, both ways and strictly.

A map is a tuple of entries: one native name and the foreign names of the same numbers. Names are templates: `{i}`
stands for a whole number, `{p}` for `weight` or `bias`, `{w}` for one word without a dot.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError

_PLACE = re.compile(r"\{(\w+)\}")
_PARTS = ("weight", "bias")
_NUMBER, _PART = "#", "*"
"""What numbers and the names of parts are in a form."""
Form = tuple[str, ...]


class Templates:
    """Ordered templates of names, indexed by the form of a name: trying every pattern takes longer than reading a small
    model. The same place twice is the same text twice."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._by_form: dict[Form, list[tuple[int, list[str]]]] = {}
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        for position, template in enumerate(templates):
            words = template.split(".")
            if "{w}" in words or any("{" in word and not _PLACE.fullmatch(word) for word in words):
                self._patterns.append((position, _pattern(template)))
            else:
                self._by_form.setdefault(tuple(map(_form, words)), []).append((position, words))

    def matches(self, name: str) -> Iterator[tuple[int, dict[str, str]]]:
        """The positions of the templates that fit a name, in order, each with what is in its places."""
        words = name.split(".")
        found = []
        for position, template in self._by_form.get(tuple(map(_form, words)), ()):
            if (values := _values(template, words)) is not None:
                found.append((position, values))
        for position, pattern in self._patterns:
            if match := pattern.fullmatch(name):
                found.append((position, match.groupdict()))
        yield from sorted(found, key=lambda pair: pair[0]) if self._patterns else found


def _form(word: str) -> str:
    """The kind of a name's word or a template's place: a number, a part, or the word itself."""
    if word.startswith("{"):
        return _PART if word == "{p}" else _NUMBER
    if word.isdigit() and word.isascii():
        return _NUMBER
    return _PART if word in _PARTS else word


def _values(template: list[str], words: list[str]) -> dict[str, str] | None:
    """The values of a template's places in a name of the same form; None where another word differs."""
    found: dict[str, str] = {}
    for own, word in zip(template, words, strict=True):
        if own.startswith("{"):
            if found.setdefault(own[1:-1], word) != word:
                return None
        elif own != word:
            return None
    return found


def _pattern(template: str) -> re.Pattern[str]:
    pattern, seen = "", set[str]()
    for position, piece in enumerate(_PLACE.split(template)):
        if position % 2 == 0:
            pattern += re.escape(piece)
        elif piece in seen:
            pattern += f"(?P={piece})"
        else:
            seen.add(piece)
            kind = {"p": "|".join(_PARTS), "w": r"[^.]+"}.get(piece, r"[0-9]+")
            pattern += f"(?P<{piece}>{kind})"
    return re.compile(pattern)


@dataclass(frozen=True)
class Layout:
    """The layout of foreign tensors in one native tensor."""

    name: str
    pack: Callable[[Sequence[Tensor]], Tensor]
    unpack: Callable[[Tensor, int], list[Tensor]]


def _chunk(native: Tensor, parts: int) -> list[Tensor]:
    return [part.contiguous() for part in native.chunk(parts, dim=0)]


SAME = Layout("same", lambda parts: parts[0], lambda native, _: [native])
STACKED = Layout("stacked", lambda parts: torch.cat(list(parts), dim=0), _chunk)
"""Several foreign tensors of equal height, one above the other (a fused q, k, v projection)."""

TRANSPOSED = Layout("transposed", lambda parts: parts[0].T.contiguous(), lambda native, _: [native.T.contiguous()])
"""A matrix that the file multiplies from the other side."""

ROW = Layout("row", lambda parts: parts[0][None], lambda native, _: [native.squeeze(0)])
"""A vector (D,) in the file, one row (1, D) in the network."""


def interleaved(parts: int, head_dim: int) -> Layout:
    """A fused projection whose rows the file groups by head: `head_dim` rows of each part in turn. Our networks have
    all heads' rows of the first part, then of the second. Packing raises CheckpointError for an incomplete head."""

    def regroup(tensor: Tensor, outer: int) -> Tensor:
        inner = tensor.shape[0] // (outer * head_dim)
        grouped = tensor.reshape(outer, inner, head_dim, *tensor.shape[1:])
        return grouped.transpose(0, 1).reshape(tensor.shape)

    def pack(foreign: Sequence[Tensor]) -> Tensor:
        tensor = foreign[0]
        heads, rest = divmod(tensor.shape[0], parts * head_dim)
        if rest:
            raise CheckpointError(
                f"A projection of {tensor.shape[0]} rows is not made of heads of {parts} x {head_dim}.",
                "The file is damaged or of another model.",
            )
        return regroup(tensor, heads)

    return Layout(f"{parts} parts by heads of {head_dim}", pack, lambda native, _: [regroup(native, parts)])


def convolution(axes: int, layout: Layout = SAME) -> Layout:
    """Weights of convolutions of size 1 with `axes` spatial axes in the file, matrices in the network; biases are
    equal. `layout` is how tensors lie otherwise."""

    def matrix(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 1 else tensor.flatten(1)

    def kernel(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 1 else tensor[(..., *[None] * axes)]

    return Layout(
        f"convolution of {layout.name}",
        lambda parts: layout.pack([matrix(part) for part in parts]),
        lambda native, count: [kernel(part) for part in layout.unpack(native, count)],
    )


def _pack_tied(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    for other in parts[1:]:
        # Two views of the same numbers need no comparison, and tensors without memory allow none.
        if not other.is_meta and other.data_ptr() != first.data_ptr() and not torch.equal(first, other):
            raise CheckpointError(
                f"Two copies of a tied table of shape {tuple(first.shape)} differ.",
                "The file is damaged or of another model.",
            )
    return first


TIED = Layout("tied", _pack_tied, lambda native, count: [native] * count)
"""One tensor that the file names several times."""


@dataclass(frozen=True)
class Entry:
    """A native name template, the foreign name templates of the same numbers, and their layout."""

    native: str
    foreign: tuple[str, ...]
    layout: Layout = SAME


def rename(native: str, foreign: str) -> Entry:
    """The same tensor under another name."""
    return Entry(native, (foreign,))


def stack(native: str, *foreign: str) -> Entry:
    """Foreign tensors that our network holds as one, stacked on the first axis in this order."""
    return Entry(native, foreign, STACKED)


def renames(names: Mapping[str, str], native: str = "", foreign: str = "") -> list[Entry]:
    """Weights and biases of modules under other names, ours and theirs below a module each."""
    ours, theirs = (f"{above}." if above else "" for above in (native, foreign))
    return [rename(f"{ours}{one}.{{p}}", f"{theirs}{other}.{{p}}") for one, other in names.items()]


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
        """The foreign names of one native name whose rows are stacked in it; empty for an unknown name or another
        layout."""
        for position, values in self._from_native.matches(native):
            entry = self.entries[position]
            if entry.layout in (SAME, STACKED):
                return [name.format(**values) for name in entry.foreign]
        return []

    def to_native(self, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames a file's tensors to ours; CheckpointError for unknown names and incomplete stacks."""
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
        missing = [name for _, wanted, parts in partial.values() for k, name in enumerate(wanted) if k not in parts]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors are missing from stacks: {summary(missing)}.",
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
                raise CheckpointError(f"{name} has no name in this format.", "This network cannot be written to it.")
            entry = self.entries[position]
            targets = [target.format(**values) for target in entry.foreign]
            foreign.update(zip(targets, entry.layout.unpack(tensor, len(targets)), strict=True))
        return foreign


def summary(names: Iterable[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
