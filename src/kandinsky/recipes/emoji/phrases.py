"""Things with their colours as people say them, in English, Russian, German and Chinese."""

import random
import re

from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.vocabulary import NOUN_LANGUAGES, VOCABULARY, Language, Noun

_GERMAN_ENDINGS = {"m": "er", "f": "e", "n": "es", "p": "e"}
_UNBENT = frozenset({"lila", "rosa", "pink"})
_EN, _RU, _DE, _ZH = (VOCABULARY[code] for code in NOUN_LANGUAGES)
_RUSSIAN = {"m": _RU.things_m, "f": _RU.things_f, "n": _RU.things_n, "p": _RU.things_p}

_COLOUR = {
    code: re.compile(words.colour_pattern, re.IGNORECASE) for code, words in VOCABULARY.items() if words.colour_pattern
}
_RUSSIAN_ADJECTIVE = re.compile(r"(ый|ий|ой|ая|яя|ое|ее|ые|ие)$")
_GERMAN_FEMININE = re.compile(r"(ung|heit|keit|schaft|ion|tät|ette|[^g]e|ei|ur)$")
_GERMAN_NEUTER = re.compile(r"(chen|lein|um|ment|zeug|auto|buch|glas|haus|boot|tier|rad|herz|gesicht)$", re.IGNORECASE)
_GERMAN_MASCULINE = re.compile(r"(er|ling|ig|or|baum|hut|wagen|schuh|ball|vogel|fisch|stuhl|zug)$", re.IGNORECASE)


def without_colour(phrase: str, language: str) -> str:
    """A label without the words for colours in it ("green apple": "apple"); the label if none is left."""
    pattern = _COLOUR.get(language)
    return (pattern.sub("", phrase).strip() if pattern else "") or phrase


def noun_of(phrase: str, language: str) -> Noun:
    """A label with the gender that its ending tells, or without where it tells none."""
    words = phrase.split()
    if language == "ru":
        head = next((word for word in words if not _RUSSIAN_ADJECTIVE.search(word)), words[-1])
        ending = head[-1:]
        gender = "f" if ending in "ая" else "n" if ending in "оеё" else "p" if ending in "ыи" else "m"
        return Noun(phrase, "" if ending == "ь" else gender)
    if language == "de":
        head = next((word for word in words if word[:1].isupper()), words[-1])
        kinds = (("n", _GERMAN_NEUTER), ("f", _GERMAN_FEMININE), ("m", _GERMAN_MASCULINE))
        return Noun(phrase, next((gender for gender, ending in kinds if ending.search(head)), ""))
    return Noun(phrase)


def coloured(noun: Noun, colour: str, language: str, rng: random.Random) -> str:
    """A thing with its colour, as one of the ways in which people say it; `colour` is one of `NAMES`."""
    return {"en": _english, "ru": _russian, "de": _german, "zh": _chinese}[language](noun, NAMES.index(colour), rng)


def colour_alone(colour: str, language: str, rng: random.Random) -> str:
    """A prompt that is nothing but a colour."""
    number = NAMES.index(colour)
    if language == "ru":
        return _RUSSIAN[rng.choice("mmnf")][number]
    if language == "zh":
        return _ZH.things[number] + rng.choice(("", "色"))
    return VOCABULARY[language].things[number]


def _word(language: Language, colour: int, rng: random.Random) -> str:
    """The colour, now and then by a rarer word."""
    word = language.things[colour]
    return language.rarer[word] if word in language.rarer and rng.random() < 0.25 else word


def _english(noun: Noun, colour: int, rng: random.Random) -> str:
    word = _word(_EN, colour, rng)
    if rng.random() < 0.06:
        return rng.choice((f"{noun.word}, {word}", f"{noun.word} in {word}", f"{word} colored {noun.word}"))
    return f"{word} {noun.word}"


def _russian(noun: Noun, colour: int, rng: random.Random) -> str:
    if rng.random() < 0.08:
        return f"{noun.word} {_RU.things_genitive[colour]} цвета"
    word = _RUSSIAN[noun.gender or rng.choice("mf")][colour]
    if rng.random() < 0.3:
        word = word.replace("ё", "е")
    return f"{word} {noun.word}"


def _german(noun: Noun, colour: int, rng: random.Random) -> str:
    word = _word(_DE, colour, rng)
    gender = noun.gender or rng.choice("mfn")
    if rng.random() < 0.06:
        return f"{noun.word} in {word.capitalize()}"
    bent = word if word in _UNBENT else word.removesuffix("e") + _GERMAN_ENDINGS[gender]
    article = {"m": "ein ", "f": "eine ", "n": "ein ", "p": ""}[gender] if rng.random() < 0.55 else ""
    return f"{article}{bent} {noun.word}"


def _chinese(noun: Noun, colour: int, rng: random.Random) -> str:
    word = _word(_ZH, colour, rng)
    word += rng.choice(("", "色", "色", "色的", "色的")) if len(word) == 1 else rng.choice(("色", "色的"))
    measure = rng.choice(("", "", "", "一个", "一个", "一只", "一辆", "一朵", "一条", "一件"))
    return f"{measure}{word}{noun.word}"
