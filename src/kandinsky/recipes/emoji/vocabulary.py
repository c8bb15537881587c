"""The words of captions in sixteen languages, read from `vocabulary.toml` and `nouns.txt`."""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from kandinsky.training.data.compose import BACKGROUNDS

Phrases = tuple[str, ...]

COLOURS = BACKGROUNDS
"""Background colours by their English names."""
NOUN_LANGUAGES = ("en", "ru", "de", "zh")
"""The columns of `nouns.txt`: the languages in which colours of things have words too."""


@dataclass(frozen=True)
class Language:
    """The words of one language; `vocabulary.toml` says what each is."""

    weight: float
    backgrounds: Phrases
    colours: Phrases
    both: str
    styles: dict[str, Phrases]
    comma: str = ", "
    unspaced: bool = False
    articles: Phrases = ()
    frames: Phrases = ()
    adjectives: Phrases = ()
    things: Phrases = ()
    things_m: Phrases = ()
    things_f: Phrases = ()
    things_n: Phrases = ()
    things_p: Phrases = ()
    things_genitive: Phrases = ()
    colour_pattern: str = ""
    rarer: dict[str, str] = field(default_factory=dict)


class Noun(NamedTuple):
    """A noun and its gender: m, f, n, p for plurals, empty where the language has none."""

    word: str
    gender: str = ""


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


VOCABULARY = TypeAdapter(dict[str, Language]).validate_python(tomllib.loads(_read("vocabulary.toml")))
LANGUAGES = {code: words.weight for code, words in VOCABULARY.items()}
"""How often a caption is in each language."""
COLOUR_WORDS = {code: dict(zip(COLOURS, words.colours, strict=True)) for code, words in VOCABULARY.items()}
"""language -> colour name -> the word as phrases of the background need it."""
UNSPACED = frozenset(code for code, words in VOCABULARY.items() if words.unspaced)


@cache
def plain_nouns() -> dict[str, dict[str, tuple[Noun, ...]]]:
    """Code points -> language -> nouns, the commonest first."""
    found = {}
    for line in _read("nouns.txt").splitlines():
        if not line.startswith("#"):
            key, *columns = (column.strip() for column in line.split("|"))
            nouns = (tuple(_noun(name) for name in column.split("/")) for column in columns)
            found[key] = dict(zip(NOUN_LANGUAGES, nouns, strict=True))
    return found


def _noun(text: str) -> Noun:
    gender, colon, word = text.partition(":")
    return Noun(word, gender) if colon else Noun(text)
