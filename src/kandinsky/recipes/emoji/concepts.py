"""The table of concepts of an emoji folder: what each is called in every language, and its group."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kandinsky.core.errors import ConfigError, DataError, nearest
from kandinsky.training.data.folder import Record, read_lines

TABLE = "concepts.json"
REBUILD = "Build the folder again with its recipe."
GROUPS: dict[str, frozenset[str]] = {
    "core": frozenset({"animals and nature", "food and drink", "travel and places", "activities", "objects"}),
    "faces": frozenset({"smileys"}),
    "people": frozenset({"people"}),
    "symbols": frozenset({"symbols"}),
}
"""Names that `groups` accepts besides the folder's own group names; "core" is what a small model should learn first."""


def _span(first: int, last: int) -> frozenset[str]:
    return frozenset(f"{point:04X}" for point in range(first, last + 1))


WASTEFUL: frozenset[str] = (
    _span(0x1F550, 0x1F567)  # clock faces
    | _span(0x2648, 0x2653)  # zodiac
    | {"26CE", "1F51F"}
    | {"1F170", "1F171", "1F17E", "1F17F", "1F18E", "1F201", "1F202", "1F21A", "1F22F", "3297", "3299"}
    | _span(0x1F191, 0x1F19A)
    | _span(0x1F232, 0x1F23A)
    | {"1F250", "1F251"}
    | _span(0x1F519, 0x1F524)
)
"""Code points of clock faces, zodiac signs and letter buttons, which cost capacity and show nothing; keycaps
end in -20E3."""


@dataclass(frozen=True)
class Words:
    """What one thing is called in one language: a short noun phrase, and single words that describe it."""

    label: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Concept:
    """One thing that images show; `words` by language. A `verbatim` label is used exactly as it was written."""

    key: str
    name: str
    group: str = ""
    words: Mapping[str, Words] = field(default_factory=dict)
    verbatim: bool = False


def wasteful(concept: Concept) -> bool:
    """Whether a concept is a clock face, keycap, letter button or zodiac sign; no written caption is one."""
    return not concept.verbatim and (concept.key in WASTEFUL or concept.key.endswith("-20E3"))


def wanted_groups(concepts: Sequence[Concept], groups: Sequence[str]) -> frozenset[str] | None:
    """The folder's groups that `groups` stand for, None for all; ConfigError for an unknown one."""
    present = {concept.group for concept in concepts}
    if "all" in groups or present <= {""}:
        return None
    for group in groups:
        if group not in GROUPS and group not in present:
            raise ConfigError(f"There is no group {group!r}.", nearest(group, {"all", *GROUPS, *present}))
    return frozenset().union(*(GROUPS.get(group, frozenset({group})) for group in groups))


def read_concepts(metadata: Path) -> tuple[list[Record], tuple[Concept, ...]]:
    """Reads `metadata.jsonl` (`file_name`, `codepoints`, `style`, `split`) and `concepts.json` next to it
    (`{codepoints: {concept, group, captions: {language: {label, tags}}}}`).

    Raises DataError when a line or an entry is not what it should be, or an image is missing.
    """
    try:
        table = json.loads((metadata.parent / TABLE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{TABLE} is not JSON: {error}.", REBUILD) from error
    concepts = tuple(_parsed(key, table[key]) for key in sorted(table))
    ids = {concept.key: number for number, concept in enumerate(concepts)}
    records = []
    for place, row in read_lines(metadata):
        key = row.get("codepoints")
        if key not in ids:
            raise DataError(f"{place}: {TABLE} has no entry {key!r}.", "Both files must come from one build.")
        style, split = str(row.get("style", "")), str(row.get("split", "train"))
        records.append(Record(str(row["file_name"]), ids[str(key)], style, split))
    return records, concepts


def _parsed(key: str, entry: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]) -> Concept:
    try:
        words = {
            language: Words(str(named["label"]), tuple(str(tag) for tag in named.get("tags", ())))
            for language, named in entry["captions"].items()
        }
        return Concept(key, str(entry["concept"]), str(entry.get("group", "")), words)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{TABLE}: the entry of {key!r} is not {{concept, group, captions}}: {error!r}.", REBUILD
        ) from error
