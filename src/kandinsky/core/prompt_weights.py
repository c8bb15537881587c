"""Weights of words in a text, in the syntax of AUTOMATIC1111's web interface: `(word:1.3)`, `(word)`, `[word]`."""

import re
from dataclasses import dataclass

from kandinsky.core.errors import RequestError

STEP = 1.1
"""What a pair of round brackets multiplies by, and a pair of square ones divides by."""
LARGEST = 10.0
"""Weights are from -10 to 10, those of brackets inside brackets too."""
DEEPEST = 64
"""How many brackets may be open at once: each that closes weighs all that is in it."""
ESCAPED = "()[]:\\"
AROUND = 12
"""Characters of a text on either side of what a message points at."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TAG = re.compile(r"<(lora|lyco|hypernet):[^<>]*>")
OTHER_SYNTAX = re.compile(
    r"(?P<weight>\([^()]+:\s*[+-]?\d*\.?\d+\s*\))|(?P<choice>\{[^{}|]*\|[^{}]*\})|(?P<list>\b__[\w/*-]+__\b|^@\S+$)"
    r"|(?P<tag><(?:lora|lyco|hypernet):[^<>]*>)|(?P<editing>\[[^\[\]]*:\s*[\d.]+\s*\])"
)
"""What other tools would not read as it is written."""
MEANT = {
    "weight": "Give prompt_weights=True (--prompt-weights) to read it as a weight.",
    "choice": "Give several prompts to have several images.",
    "list": "A list of prompts is a file such as prompts.txt.",
    "tag": "Adapters are loaded with lora= (--lora).",
    "editing": "A text is the same in all steps.",
}


@dataclass(frozen=True)
class WeightedText:
    """A text without the brackets of its weights, and the weight of each of its characters."""

    text: str
    weights: tuple[float, ...]

    @property
    def is_plain(self) -> bool:
        """Whether every weight is 1."""
        return all(weight == 1.0 for weight in self.weights)


@dataclass
class _Bracket:
    """An open bracket: its place in the text as it is written, how many characters came before it, and where its last
    colon is in both."""

    kind: str
    place: int
    begin: int
    colon: tuple[int, int] | None = None
    bar: bool = False


def read_as_written(text: str) -> str:
    """Says of a text with `OTHER_SYNTAX` that it is a part of the prompt, and what to do."""
    found = OTHER_SYNTAX.search(text)
    assert found is not None
    assert found.lastgroup is not None
    return f"{found[0]!r} is read as it is written. {MEANT[found.lastgroup]}"


def parse_weights(text: str, name: str = "The prompt") -> WeightedText:
    r"""Reads the weights of a text.

    `(text:1.3)` has the weight 1.3, `(text)` 1.1 and `[text]` 1 / 1.1; brackets inside brackets multiply. A backslash
    in front of a bracket, a colon or a backslash makes it a character of the text. Raises RequestError, which says
    where, for brackets that are not in pairs or more than 64 deep, a colon in brackets without a finite number from -10
    to 10 behind it, and what that interface has besides weights: `[from:to:when]`, `[one|other]` and `<lora:...>`.
    Source: the wiki of AUTOMATIC1111/stable-diffusion-webui, "Attention/emphasis".
    """
    if tag := _TAG.search(text):
        raise _misread(
            name,
            text,
            tag.start(),
            f"{tag[0]!r} is no weight",
            "Load adapters with lora=, or on a command line --lora.",
        )
    letters: list[str] = []
    weights: list[float] = []
    opened: list[_Bracket] = []
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\" and text[place + 1 : place + 2] in tuple(ESCAPED):
            letters.append(text[place + 1])
            weights.append(1.0)
            place += 2
            continue
        if letter in "([":
            _check_depth(name, text, opened, place)
            opened.append(_Bracket(letter, place, len(letters)))
        elif letter in ")]":
            if not opened or opened[-1].kind != "(["[")]".index(letter)]:
                raise _misread(name, text, place, f"{letter!r} closes nothing")
            factor = _factor(name, text, opened[-1], place)
            bracket = opened.pop()
            if bracket.colon is not None:
                del letters[bracket.colon[1] :], weights[bracket.colon[1] :]
            weights[bracket.begin :] = [round(weight * factor, 6) for weight in weights[bracket.begin :]]
            if any(abs(weight) > LARGEST for weight in weights[bracket.begin :]):
                raise _misread(name, text, bracket.place, f"a weight of {max(weights, key=abs):g} is outside -10 to 10")
        else:
            if opened and letter == ":":
                opened[-1].colon = (place, len(letters))
            if opened and letter == "|":
                opened[-1].bar = True
            letters.append(letter)
            weights.append(1.0)
        place += 1
    if opened:
        raise _misread(name, text, opened[-1].place, f"{opened[-1].kind!r} is not closed")
    return WeightedText("".join(letters), tuple(weights))


def without_idle_weights(text: str) -> str:
    """The text itself, or without brackets where all its weights are 1; what stays of these is escaped."""
    found = parse_weights(text)
    return re.sub(r"([()\[\]\\])", r"\\\1", found.text) if found.is_plain else text


def _check_depth(name: str, text: str, opened: list[_Bracket], place: int) -> None:
    """RequestError for a bracket that would be one too many."""
    if len(opened) == DEEPEST:
        raise _misread(name, text, place, f"more than {DEEPEST} brackets are open")


def _factor(name: str, text: str, bracket: _Bracket, end: int) -> float:
    """What the weights in a bracket are multiplied by."""
    if bracket.kind == "[":
        if bracket.bar or bracket.colon is not None:
            what = "[one|other]" if bracket.bar else "[from:to:when]"
            raise _misread(name, text, bracket.place, f"{what} is not offered: a text is the same in all steps")
        return 1 / STEP
    if bracket.colon is None:
        return STEP
    said = text[bracket.colon[0] + 1 : end].strip()
    if not _NUMBER.fullmatch(said):
        raise _misread(name, text, bracket.colon[0], f"the weight {said[:40]!r} is no number")
    weight = float(said)
    if not abs(weight) <= LARGEST:
        raise _misread(name, text, bracket.colon[0], f"a weight of {said[:40]} is outside -10 to 10")
    return weight


def _misread(
    name: str,
    text: str,
    place: int,
    what: str,
    hint: str = r"Write (word:1.3), (word) or [word], and \( for a bracket or \: for a colon that is no weight.",
) -> RequestError:
    begin, end = max(0, place - AROUND), place + AROUND
    around = f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"
    return RequestError(f"{name}: at character {place + 1}, in '{around}': {what}.", hint)
