"""The caption grammar: one concept, style and background, said in one of sixteen languages."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji import phrases
from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.concepts import Concept
from kandinsky.recipes.emoji.vocabulary import (
    COLOUR_WORDS,
    COLOURS,
    LANGUAGES,
    NOUN_LANGUAGES,
    UNSPACED,
    VOCABULARY,
    Noun,
    plain_nouns,
)
from kandinsky.training.data.caption import Caption, Facts, equal, equal_texts, names, names_a_side
from kandinsky.training.data.images import Share

_PARENTHESIS = re.compile(r"\s*[(（][^)）]*[)）]")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": "", "”": "", "„": "", "«": "", "»": "", "!": ""})
_NOT_A_WORD = re.compile(r"^[\W\d_]*$")
_HEAD_ONLY = re.compile(r"^(?!.*\b(with|moon|sun)\b)(.+) face$")

Weighted = tuple[tuple[str, ...], tuple[float, ...]]
"""Choices, and how likely each is in proportion."""


@dataclass(frozen=True)
class CaptionMix:
    """How often each part of a caption appears; all but `languages` are probabilities.

    `tags`: describing words instead of the label. `article`: "a", "the", "an image of a" and the like.
    `style`: the style is named. `white_named`, `colour_named`: the background is named when it is white, and
    when it is not; `own_colour`: the thing's own colour is named (one that it was given always is), and
    `colour_alone`: nothing but that; `plain`: where people have a plain word for the thing, it is used.
    """

    languages: Mapping[str, Annotated[float, Field(ge=0)]] = field(default_factory=lambda: dict(LANGUAGES))
    tags: Share = 1 / 3
    article: Share = 0.5
    style: Share = 0.4
    white_named: Share = 0.2
    colour_named: Share = 0.9
    own_colour: Share = 0.0
    colour_alone: Share = 0.0
    plain: Share = 0.0


def clean_label(label: str, language: str = "en") -> str:
    """Turns an annotation into a plain noun phrase.

    Parentheses, typographic quotes and "keycap:"-style colons go; a Hindi label that lists synonyms keeps the first.
    "woman: red hair" becomes "woman with red hair", "man walking: facing right" becomes "man walking facing right".
    """
    text = _PARENTHESIS.sub("", label).translate(_QUOTES).strip()
    if language == "hi" and ":" not in text:
        text = text.split(",")[0].strip()
    if ":" in text:
        head, tail = (part.strip() for part in text.split(":", 1))
        joiner = " with " if language == "en" and not tail.startswith("facing") else " "
        text = f"{head}{joiner}{tail}"
    return re.sub(r"\s+", " ", text).strip() or label


def plain_names(concept: Concept, language: str) -> tuple[str, ...]:
    """The noun phrases for one concept, the first being the cleaned label.

    An animal's face is also called by the animal ("cat face", "cat"): the word that people type.
    Raises DataError when the concept has no words in that language.
    """
    words = concept.words.get(language)
    if words is None:
        raise DataError(
            f"{concept.name!r} has no caption in {language!r}.", f"It has: {', '.join(sorted(concept.words))}."
        )
    if concept.verbatim:
        return (words.label,)
    label = clean_label(words.label, language)
    head = _HEAD_ONLY.match(label) if language == "en" and concept.group.startswith("animals") else None
    return (label, head.group(2)) if head else (label,)


def mirrorable(concept: Concept) -> bool:
    """Whether the mirrored image still shows the concept: not symbols, nothing that names a side."""
    english = concept.words.get("en")
    named = concept.name if english is None else f"{concept.name} {english.label}"
    return concept.group != "symbols" and not names_a_side(named)


def with_article(phrase: str) -> str:
    """Puts "a" or "an" before an English phrase, or nothing before a plural."""
    if phrase.lower().endswith("s") and not phrase.lower().endswith(("ss", "us", "is")):
        return phrase
    return f"an {phrase}" if phrase[:1].lower() in "aeiou" else f"a {phrase}"


@dataclass(frozen=True)
class Tint:
    """The colour of a thing by its name, empty when it has none, and whether it was `given` to it."""

    colour: str = ""
    given: bool = False

    @classmethod
    def of(cls, number: int) -> "Tint":
        """The tint of a number: -1 none, then the things' own colours, then those that they were given."""
        return cls() if number < 0 else cls(NAMES[number % len(NAMES)], number >= len(NAMES))


NO_TINT = Tint()


def tints_of(facts: Facts) -> Tensor:
    """The colours of things (B,), see `Tint.of`; -1 where they were not measured."""
    return facts.get("tints", torch.full_like(facts["concepts"], -1))


class CaptionGrammar:
    """Says what an image shows; every word is drawn from the `random.Random` given, and nothing else.

    A tag counts by how few concepts share it (as inverse document frequency): "apple" says more than "food".
    """

    def __init__(self, concepts: Iterable[Concept], mix: CaptionMix | None = None, styles: Sequence[str] = ()) -> None:
        self.concepts = tuple(concepts)
        self.styles = tuple(styles)
        self.mix = mix or CaptionMix()
        check_languages(self.mix.languages)
        frequency: Counter[tuple[str, str]] = Counter()
        for concept in self.concepts:
            for language, words in concept.words.items():
                frequency.update((language, tag) for tag in set(words.tags))
        self._frequency = frequency
        self._tags: dict[tuple[int, str], Weighted] = {}
        self._languages = [self._spoken(concept) for concept in self.concepts]

    def _spoken(self, concept: Concept) -> Weighted:
        """The languages that a caption of a concept may be in."""
        known = tuple(code for code in concept.words if self.mix.languages.get(code, 0.0) > 0.0)
        if not known:
            # A verbatim caption in a language without a weight is still the only thing to say.
            return tuple(concept.words), (1.0,) * len(concept.words)
        return known, tuple(self.mix.languages[code] for code in known)

    def captions(self, facts: Facts, rng: random.Random) -> list[Caption]:
        colours = [*COLOURS, ""]
        columns = (facts[name].tolist() for name in ("concepts", "styles", "backgrounds", "beside"))
        return [
            self.caption(
                concept,
                rng,
                style=self.styles[style],
                background=colours[colour],
                beside=other if other >= 0 else None,
                tint=Tint.of(tint),
            )
            for concept, style, colour, other, tint in zip(*columns, tints_of(facts).tolist(), strict=True)
        ]

    def matches(self, facts: Facts, said: Sequence[Caption]) -> Tensor:
        """Which caption (row) is true of which image (column), (B, B) bool.

        A caption fits an image of the same things whose style, background and colour are the ones it names;
        what it does not name may be anything, but the colour, which is then the thing's own.
        """
        fits = equal(facts["concepts"]) & equal(facts["beside"])
        for fact in ("styles", "backgrounds"):
            fits &= ~names(said, fact)[:, None] | equal(facts[fact])
        tints = tints_of(facts)
        same = equal(torch.where(tints >= 0, tints % len(NAMES), tints))
        fits &= torch.where(names(said, "tints")[:, None], same, (tints < len(NAMES))[None])
        return fits | torch.eye(len(said), dtype=torch.bool) | equal_texts(said)

    def mirrorable(self, concept: int) -> bool:
        return mirrorable(self.concepts[concept])

    def corpus(self, rounds: int = 4, seed: int = 0) -> Iterator[str]:
        """Yields what a tokenizer should be good at, in a fixed order.

        Every label and tag once; then `rounds` drawn captions for each concept and language, with styles and
        colours, several times for the languages that training asks for more often.
        """
        for concept in self.concepts:
            for words in concept.words.values():
                yield words.label
                yield from words.tags
        grammar = CaptionGrammar(self.concepts, CaptionMix(style=0.3, white_named=0.3, colour_named=0.3))
        rng = random.Random(seed)
        rarest = min(LANGUAGES.values())
        for number, concept in enumerate(self.concepts):
            for language in sorted(set(concept.words) & set(LANGUAGES)):
                # The square root keeps the rare languages in a vocabulary that English could fill.
                for _ in range(round(rounds * (LANGUAGES[language] / rarest) ** 0.5)):
                    style, colour = rng.choice(self.styles), rng.choice(list(COLOURS))
                    yield grammar.caption(number, rng, style=style, background=colour, language=language).text

    def language(self, concept: int, rng: random.Random, tinted: bool = False) -> str:
        """Draws a language that the concept has words in, and words for a colour that it was given."""
        codes, weights = self._languages[concept]
        if tinted:
            spoken = {code: weight for code, weight in zip(codes, weights, strict=True) if code in NOUN_LANGUAGES}
            codes, weights = tuple(spoken), tuple(spoken.values())
        return rng.choices(codes, weights)[0]

    def tags(self, concept: int, language: str) -> Weighted:
        """The usable tags of a concept and their weights, 1 / (concepts that share the tag)^1.5."""
        key = (concept, language)
        if key not in self._tags:
            words = self.concepts[concept].words[language]
            kept = tuple(
                tag
                for tag in dict.fromkeys(words.tags)
                if not _NOT_A_WORD.match(tag) and "," not in tag and (len(tag) > 1 or language in UNSPACED | {"ko"})
            )
            self._tags[key] = kept, tuple(self._frequency[language, tag] ** -1.5 for tag in kept)
        return self._tags[key]

    def subject(self, concept: int, language: str, rng: random.Random) -> str:
        """Draws the words for one concept: its label, or one to three of its tags."""
        names = plain_names(self.concepts[concept], language)
        if nouns := self._nouns(concept, language, rng):
            return rng.choice(nouns).word
        if rng.random() >= self.mix.tags or self.concepts[concept].verbatim:
            return rng.choice(names)
        tags, weights = self.tags(concept, language)
        if not tags:
            return names[0]
        first = rng.choices(tags, weights)[0]
        # A word that many concepts share says too little, so it is said together with others.
        shared = self._frequency[language, first]
        wanted = 1 if shared <= 4 and rng.random() < 0.6 else rng.choice((2, 3))
        others = [tag for tag in tags if tag != first]
        chosen = [first, *rng.sample(others, min(wanted - 1, len(others)))]
        if len(chosen) == 1 and shared > 4:
            return names[0]
        return VOCABULARY[language].comma.join(chosen)

    def _nouns(self, concept: int, language: str, rng: random.Random) -> tuple[Noun, ...]:
        """The plain words for a concept, as often as they are to be used; the first is drawn more often."""
        if not self.mix.plain:
            return ()
        nouns = plain_nouns().get(self.concepts[concept].key, {}).get(language, ())
        return (*nouns, *nouns[:1]) if nouns and rng.random() < self.mix.plain else ()

    def _coloured(self, concept: int, language: str, colour: str, rng: random.Random) -> str:
        """The thing with its colour, in words that name no other one."""
        nouns = self._nouns(concept, language, rng)
        if not nouns:
            labels = plain_names(self.concepts[concept], language)
            tags, _ = self.tags(concept, language)
            rare = [tag for tag in tags if self._frequency[language, tag] <= 2]
            label = rng.choice(rare) if rare and rng.random() < self.mix.tags else rng.choice(labels)
            nouns = (phrases.noun_of(phrases.without_colour(label, language), language),)
        text = phrases.coloured(rng.choice(nouns), colour, language, rng)
        return self._framed(text, language, rng) if language == "en" else text

    def _tinted(self, concept: int, tint: Tint, language: str, rng: random.Random) -> str | None:
        """The thing with its colour, or None when chance or the language leaves it out."""
        if not tint.colour or language not in NOUN_LANGUAGES:
            return None
        if not tint.given and (not self.mix.own_colour or rng.random() >= self.mix.own_colour):
            return None
        if self.mix.colour_alone and rng.random() < self.mix.colour_alone:
            return phrases.colour_alone(tint.colour, language, rng)
        return self._coloured(concept, language, tint.colour, rng)

    def _framed(
        self, subject: str, language: str, rng: random.Random, frames: Sequence[str] = VOCABULARY["en"].frames
    ) -> str:
        if rng.random() >= self.mix.article or "," in subject or "、" in subject or "،" in subject:
            return subject
        if language == "en":
            frame = rng.choice(frames)
            return frame.replace("a {}", with_article(subject)) if "a {}" in frame else frame.format(subject)
        articles = VOCABULARY[language].articles
        # Half as often as in English: a label without an article is the common form in the annotations.
        if not articles or rng.random() < 0.5:
            return subject
        gap = "" if language in UNSPACED else " "
        return f"{rng.choice(articles)}{gap}{subject}"

    def caption(
        self,
        concept: int,
        rng: random.Random,
        *,
        style: str = "",
        background: str = "",
        language: str | None = None,
        beside: int | None = None,
        tint: Tint = NO_TINT,
    ) -> Caption:
        """Draws one caption.

        `background` is a colour name, empty when nothing is known of it; `beside` is the concept shown to the
        right; `tint` is the thing's colour, named always when it was given to it. Raises
        DataError for a language or a colour without words.
        """
        spoken = language or self.language(concept, rng, tint.given)
        check_languages([spoken])
        if beside is not None and spoken not in self.concepts[beside].words:
            beside = None
        tinted = self._tinted(concept, tint, spoken, rng) if beside is None else None
        if tinted is not None:
            subject = tinted
        elif beside is None:
            text = self.subject(concept, spoken, rng)
            subject = text if self.concepts[concept].verbatim else self._framed(text, spoken, rng)
        else:
            pair = (rng.choice(plain_names(self.concepts[i], spoken)) for i in (concept, beside))
            first, second = (self._framed(name, spoken, rng, ("a {}",)) for name in pair)
            subject = VOCABULARY[spoken].both.format(first, second)
        styled = self._styled(subject, style, spoken, rng)
        placed = self._placed(styled or subject, background, spoken, rng)
        text = placed or styled or subject
        named = {"styles": styled, "backgrounds": placed, "tints": tinted}
        return Caption(text, spoken, frozenset(fact for fact, phrase in named.items() if phrase is not None))

    def _styled(self, subject: str, style: str, language: str, rng: random.Random) -> str | None:
        """The subject with the style named, or None when chance or the vocabulary leaves it out."""
        words = VOCABULARY[language].styles.get(style, ())
        if not words or rng.random() >= self.mix.style:
            return None
        word = rng.choice(words)
        if word in VOCABULARY[language].adjectives and rng.random() < 0.5:
            framed = re.match(r"(.*\b)?(an?|the) (.+)", subject)
            if framed is None:
                return f"{word} {subject}"
            styled = f"{word} {framed.group(3)}"
            article = f"the {styled}" if framed.group(2) == "the" else with_article(styled)
            return (framed.group(1) or "") + article
        return VOCABULARY[language].comma.join((subject, word))

    def _placed(self, subject: str, background: str, language: str, rng: random.Random) -> str | None:
        """The subject with the background named, or None when chance leaves it out."""
        if not background:
            return None
        named = self.mix.white_named if background == "white" else self.mix.colour_named
        if rng.random() >= named:
            return None
        phrase = background_phrase(background, language, rng)
        standing_alone = language == "en" and not phrase.startswith("on ")
        if language in UNSPACED or standing_alone or (rng.random() < 0.3 and language != "ar"):
            return VOCABULARY[language].comma.join((subject, phrase))
        return f"{subject} {phrase}"


def check_languages(codes: Iterable[str]) -> None:
    """Raises DataError for a language without a vocabulary."""
    if unknown := sorted(set(codes) - VOCABULARY.keys()):
        raise DataError(f"The caption grammar does not speak {unknown[0]!r}.", f"Known: {', '.join(VOCABULARY)}.")


def background_phrase(colour: str, language: str, rng: random.Random | None = None) -> str:
    """Says a background colour ("on a blue background"); the language's first template when `rng` is None.

    Raises DataError for an unknown colour or language.
    """
    if language not in COLOUR_WORDS or colour not in COLOUR_WORDS[language]:
        raise DataError(
            f"There is no word for a {colour!r} background in {language!r}.",
            f"Colours: {', '.join(COLOUR_WORDS['en'])}.",
        )
    templates = VOCABULARY[language].backgrounds
    template = templates[0] if rng is None else rng.choice(templates)
    phrase = template.format(COLOUR_WORDS[language][colour])
    return phrase.replace("on a orange", "on an orange")


def plain_caption(concept: Concept, language: str = "en", style: str = "", background: str = "") -> str:
    """The caption without chance, for evaluation: label, the style's first word, the background's first template.

    Raises DataError when the concept has no words in that language.
    """
    check_languages([language])
    words = VOCABULARY[language]
    text = words.comma.join((plain_names(concept, language)[0], *words.styles.get(style, ())[:1]))
    gap = words.comma if words.unspaced else " "
    return f"{text}{gap}{background_phrase(background, language)}" if background else text
