"""Prompts as AUTOMATIC1111 reads them: brackets that are not in pairs are text, or weigh all that follows."""

import re
from dataclasses import dataclass

from kandinsky.core.errors import RequestError
from kandinsky.core.prompt_weights import DEEPEST, ESCAPED, STEP, WeightedText, parse_weights

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_TOKEN = re.compile(rf"\\[()\[\]\\]?|[(\[\])]|:\s*({_NUMBER})\s*\)|:|[^\\()\[\]:]+")
_TIME = re.compile(rf"\s*{_NUMBER}\s*")
_ESCAPED = re.compile(f"[{re.escape(ESCAPED)}]")
_FACTORS = {"(": STEP, "[": 1 / STEP}


@dataclass
class _Bracket:
    """An open bracket: how many characters came before it, and whether a bar is right in it."""

    kind: str
    begin: int
    bar: bool = False


def as_weights(text: str, name: str) -> str:
    r"""The text in the syntax of `parse_weights`, which is stricter: itself, where both read the same.

    A bracket that closes nothing is text, one that is not closed weighs all that follows, a colon without a number is
    text, and a backslash is none. Raises RequestError for what changes a text between steps, and for more than
    `DEEPEST` brackets that are open at once. Source: the prompts of stable-diffusion-webui 1.10, as its clients write
    them.
    """
    found = _Reading(name).of(text)
    try:
        same = parse_weights(text) == found
    except RequestError:
        same = False
    return text if same else _written(found)


class _Reading:
    """A text while it is read: its characters, their weights, and the brackets that are open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.letters: list[str] = []
        self.weights: list[float] = []
        self.opened: list[_Bracket] = []

    def of(self, text: str) -> WeightedText:
        """The whole text."""
        before = ("", "")
        for found in _TOKEN.finditer(text):
            token = found[0]
            if token in ("(", "["):
                self._open(token)
            elif token == "]" and before[0] == ":" and _TIME.fullmatch(before[1]) and self._last("[") is not None:
                raise self._changes("[from:to:when]")
            elif not (token[-1] in ")]" and token[0] != "\\" and self._closed(token, found[1])):
                self._add(token)
            before = (before[1], token)
        while self.opened:
            self._weigh(len(self.opened) - 1, None)
        return WeightedText("".join(self.letters), tuple(self.weights))

    def _add(self, token: str) -> None:
        if "|" in token and self.opened:
            self.opened[-1].bar = True
        own = token.removeprefix("\\")
        self.letters += own
        self.weights += [1.0] * len(own)

    def _open(self, kind: str) -> None:
        if len(self.opened) == DEEPEST:
            raise RequestError(f"{self.name}: more than {DEEPEST} brackets are open at once.", "Close some of them.")
        self.opened.append(_Bracket(kind, len(self.letters)))

    def _last(self, kind: str) -> int | None:
        return next((i for i in reversed(range(len(self.opened))) if self.opened[i].kind == kind), None)

    def _closed(self, token: str, weight: str | None) -> bool:
        """Whether there was a bracket to close; it need not be the last one of another kind."""
        index = self._last("[" if token == "]" else "(")
        if index is None:
            return False
        if token == "]" and self.opened[index].bar:
            raise self._changes("[one|other]")
        self._weigh(index, weight)
        return True

    def _weigh(self, index: int, weight: str | None) -> None:
        bracket = self.opened.pop(index)
        factor = _FACTORS[bracket.kind] if weight is None else float(weight)
        for place in range(bracket.begin, len(self.weights)):
            self.weights[place] = round(self.weights[place] * factor, 6)

    def _changes(self, what: str) -> RequestError:
        return RequestError(f"{self.name}: {what} is not offered: a text is the same in all steps.")


def _written(found: WeightedText) -> str:
    """A text whose characters have these weights."""
    parts, begin = [], 0
    for end in range(1, len(found.text) + 1):
        weight = found.weights[begin]
        if end == len(found.text) or found.weights[end] != weight:
            part = _ESCAPED.sub(r"\\\g<0>", found.text[begin:end])
            parts.append(part if weight == 1.0 else f"({part}:{weight})")
            begin = end
    return "".join(parts)
