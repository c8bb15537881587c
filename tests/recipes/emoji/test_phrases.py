"""Things with their colours in four languages."""

import random
import tomllib
from importlib.resources import files

import pytest

from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.phrases import colour_alone, coloured, noun_of, without_colour
from kandinsky.recipes.emoji.vocabulary import NOUN_LANGUAGES, VOCABULARY, Noun, plain_nouns


def said(noun: Noun, colour: str, language: str) -> set[str]:
    rng = random.Random(0)
    return {coloured(noun, colour, language, rng) for _ in range(200)}


@pytest.mark.parametrize(
    ("noun", "language", "phrase"),
    [
        (Noun("машина", "f"), "ru", "красная машина"),
        (Noun("яблоко", "n"), "ru", "красное яблоко"),
        (Noun("очки", "p"), "ru", "красные очки"),
        (Noun("Auto", "n"), "de", "ein rotes Auto"),
        (Noun("Katze", "f"), "de", "eine rote Katze"),
        (Noun("Hund", "m"), "de", "roter Hund"),
        (Noun("car"), "en", "red car"),
        (Noun("汽车"), "zh", "红色的汽车"),
    ],
)
def test_adjectives_agree(noun: Noun, language: str, phrase: str) -> None:
    assert phrase in said(noun, "red", language)


def test_no_wrong_gender_is_said() -> None:
    assert not any("красный" in phrase or "красное" in phrase for phrase in said(Noun("машина", "f"), "red", "ru"))
    assert not any("rotes" in phrase or "rote " in phrase for phrase in said(Noun("Hund", "m"), "red", "de"))
    assert "ein rosa Hund" in said(Noun("Hund", "m"), "pink", "de")


@pytest.mark.parametrize(
    ("label", "language", "rest"),
    [
        ("green apple", "en", "apple"),
        ("light blue heart", "en", "heart"),
        ("зелёное яблоко", "ru", "яблоко"),
        ("красный бумажный фонарик", "ru", "бумажный фонарик"),
        ("roter Apfel", "de", "Apfel"),
        ("红苹果", "zh", "苹果"),
        ("orange", "en", "orange"),
        ("orange juice", "fr", "orange juice"),
    ],
)
def test_words_for_colours_leave_labels(label: str, language: str, rest: str) -> None:
    assert without_colour(label, language) == rest


def test_endings_tell_genders() -> None:
    assert noun_of("пожарная машина", "ru").gender == "f"
    assert noun_of("дерево", "ru").gender == "n"
    assert noun_of("медведь", "ru").gender == ""
    assert noun_of("Zeitung", "de").gender == "f"
    assert noun_of("Häuschen", "de").gender == "n"


def test_words_are_read_from_files_that_are_installed() -> None:
    folder = files("kandinsky.recipes.emoji")
    assert list(tomllib.loads((folder / "vocabulary.toml").read_text(encoding="utf-8"))) == list(VOCABULARY)
    lines = (folder / "nouns.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == len(plain_nouns())


def test_plain_words_are_there_in_every_language() -> None:
    nouns = plain_nouns()
    assert len(nouns) > 200
    assert all(list(words) == list(NOUN_LANGUAGES) and all(words.values()) for words in nouns.values())
    assert all(noun.gender in tuple("mfnp") for words in nouns.values() for noun in words["ru"] + words["de"])
    assert nouns["1F41F"]["en"] == (Noun("fish"),)


def test_every_colour_has_a_word_of_its_own() -> None:
    for language in NOUN_LANGUAGES:
        assert len({colour_alone(colour, language, random.Random(1)) for colour in NAMES}) == len(NAMES)
