"""Name templates, found by the form of a name: trying hundreds of patterns on every tensor takes longer than
reading the tensors of a small model."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_PLACE = re.compile(r"\{(\w+)\}")
_PARTS = ("weight", "bias")
_NUMBER, _PART = "#", "*"
"""What numbers and the names of parts are in a form."""
Form = tuple[str, ...]


@dataclass(frozen=True)
class _Plain:
    """A template each of whose places is a whole word between dots; `names` are those places' names or ""."""

    position: int
    words: tuple[str, ...]
    names: tuple[str, ...]

    def values(self, words: list[str]) -> dict[str, str] | None:
        """What a name of the same form has in the places, None where another word differs."""
        found: dict[str, str] = {}
        for own, name, word in zip(self.words, self.names, words, strict=True):
            if name:
                if found.setdefault(name, word) != word:
                    return None
            elif own != word:
                return None
        return found


class Templates:
    """Templates of names in the order in which they are to be tried.

    `{p}` stands for `weight` or `bias`, `{w}` for one word without a dot, any other place for a whole number;
    the same place twice is the same text twice.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self._plain: dict[Form, list[_Plain]] = {}
        self._others: list[tuple[int, re.Pattern[str]]] = []
        for position, template in enumerate(templates):
            words = template.split(".")
            places = [_PLACE.fullmatch(word) for word in words]
            names = tuple(place[1] if place else "" for place in places)
            if "w" in names or any("{" in w for w, name in zip(words, names, strict=True) if not name):
                self._others.append((position, _pattern(template)))
                continue
            form = tuple(
                _form(word) if not name else _PART if name == "p" else _NUMBER
                for word, name in zip(words, names, strict=True)
            )
            self._plain.setdefault(form, []).append(_Plain(position, tuple(words), names))

    def matches(self, name: str) -> Iterator[tuple[int, dict[str, str]]]:
        """The positions of the templates that fit a name, in order, each with what is in its places."""
        words = name.split(".")
        found = []
        for template in self._plain.get(tuple(_form(word) for word in words), ()):
            if (values := template.values(words)) is not None:
                found.append((template.position, values))
        for position, pattern in self._others:
            if match := pattern.fullmatch(name):
                found.append((position, match.groupdict()))
        yield from sorted(found, key=lambda pair: pair[0]) if self._others else found


def _form(word: str) -> str:
    if word.isdigit() and word.isascii():
        return _NUMBER
    return _PART if word in _PARTS else word


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
