"""The names of weight files in a published folder, and which of them to read.

A folder may hold the same weights several times: as safetensors and as pickles, whole and in shards, and in
variants such as `fp16`. Two spellings exist for a variant's shards and for its index; both are read.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kandinsky.core.errors import CheckpointError

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""The stems that the two libraries which publish these folders write."""

KINDS = ("safetensors", "bin")
"""From the one to read first to the last."""

SMALL = (".json", ".txt", ".model")
"""Endings of configurations and tokenizer files, which are fetched before any weights."""

_ALSO = {"model": "pytorch_model", "pytorch_model": "model"}
_VARIANT = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class WeightName:
    """A file name taken apart; `part` is 0 for a whole file, a shard's number, or None for an index."""

    file: str
    variant: str | None
    kind: str
    part: int | None


@dataclass(frozen=True)
class Choice:
    """The files to read: one whole file, or all shards with their index."""

    files: tuple[str, ...]
    index: str | None
    variant: str | None


def stems_for(stem: str) -> tuple[str, ...]:
    """The stems under which weights named `stem` may lie; transformers names its pickles otherwise."""
    return (stem, _ALSO[stem]) if stem in _ALSO else (stem,)


def parse(name: str, stems: Sequence[str] = STEMS) -> WeightName | None:
    """Takes a file name apart, or returns None when it is no weight file of these stems."""
    choices = "|".join(re.escape(stem) for stem in stems)
    pattern = (
        rf"(?:{choices})(?:\.(?P<before>{_VARIANT}))?(?:-(?P<part>\d+)-of-\d+)?(?:\.(?P<after>{_VARIANT}))?"
        rf"\.(?P<kind>{'|'.join(KINDS)})(?P<index>\.index(?:\.(?P<inside>{_VARIANT}))?\.json)?"
    )
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    variant = match["before"] or match["after"] or match["inside"]
    return WeightName(name, variant, match["kind"], None if match["index"] else int(match["part"] or 0))


def is_small(name: str) -> bool:
    """Whether this is a configuration or a tokenizer's file: neither weights nor an index of them."""
    return name.endswith(SMALL) and ".index." not in name and not parse(name)


def variants(names: Iterable[str], stems: Sequence[str] = STEMS) -> list[str]:
    """The variants there are, `""` for the plain files, in alphabetical order."""
    return sorted({found.variant or "" for name in names if (found := parse(name, stems))})


def choose(names: Iterable[str], variant: str | None, where: str, stems: Sequence[str] = STEMS) -> Choice | None:
    """The files among `names` to read for `variant`: safetensors before pickles, whole files before shards.

    None asks for the plain files, or for the only variant; returns None when there are no weights. Raises
    CheckpointError, listing the variants of `where`, for a variant that is not there, and for shards without index.
    """
    found = [name for name in (parse(n, stems) for n in names) if name is not None]
    there = sorted({name.variant or "" for name in found})
    if not found:
        return None
    wanted = variant or ""
    if variant is None and "" not in there and len(there) == 1:
        wanted = there[0]
    if wanted not in there:
        listed = ", ".join(repr(v) if v else "the plain one" for v in there)
        missing = f"variant {wanted!r}" if wanted else "plain variant"
        raise CheckpointError(f"{where} has no weights of the {missing}.", f"It has: {listed}.")
    for kind in KINDS:
        same = [name for name in found if name.kind == kind and (name.variant or "") == wanted]
        whole = sorted(name.file for name in same if name.part == 0)
        index = sorted(name.file for name in same if name.part is None)
        shards = sorted(name.file for name in same if name.part)
        if whole:
            return Choice((whole[0],), None, wanted or None)
        if index:
            return Choice(tuple(shards), index[0], wanted or None)
    raise CheckpointError(
        f"{where} has shards of weights but no index of them.", "Its .index.json is missing; download it."
    )


def file_name(stem: str, variant: str | None = None, shard: str = "") -> str:
    """The name to write: `stem[.variant][-00001-of-00002].safetensors`."""
    return f"{stem}{f'.{variant}' if variant else ''}{shard}.safetensors"


def index_name(stem: str, variant: str | None = None) -> str:
    """The name of the index to write, in the spelling that both publishing libraries read."""
    return f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
