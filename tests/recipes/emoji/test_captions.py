"""The caption grammar: every language and colour has words, chance is the generator's alone, labels come out
clean.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji.captions import (
    CaptionGrammar,
    CaptionMix,
    background_phrase,
    clean_label,
    mirrorable,
    plain_caption,
    plain_names,
    with_article,
)
from kandinsky.recipes.emoji.concepts import Concept, Words
from kandinsky.recipes.emoji.recipe import grammar_of, read_emoji
from kandinsky.recipes.emoji.vocabulary import COLOUR_WORDS, COLOURS, LANGUAGES, VOCABULARY
from kandinsky.training.data.caption import Caption
from tests.training_data.folders import emoji_folder

QUIET = {"tags": 0.0, "article": 0.0, "style": 0.0, "white_named": 0.0, "colour_named": 0.0}


@pytest.fixture
def concepts(tmp_path: Path) -> dict[str, tuple[int, Concept]]:
    folder = read_emoji(emoji_folder(tmp_path / "set"), ("all",))
    return {concept.name: (i, concept) for i, concept in enumerate(grammar_of(folder).concepts)}


def quiet(concepts: dict[str, tuple[int, Concept]], **mix: float) -> CaptionGrammar:
    return CaptionGrammar([concept for _, concept in concepts.values()], CaptionMix(**{**QUIET, **mix}))  # type: ignore[arg-type]


def test_every_language_can_say_everything() -> None:
    assert len(LANGUAGES) == 16
    assert sum(LANGUAGES.values()) == pytest.approx(1)
    assert (LANGUAGES["en"], LANGUAGES["ru"]) == (0.35, 0.15)
    for language in LANGUAGES:
        assert set(COLOUR_WORDS[language]) == set(COLOURS)
        assert len(set(COLOUR_WORDS[language].values())) == len(COLOURS), f"{language} repeats a colour word"
        assert all("{}" in template for template in VOCABULARY[language].backgrounds)
        assert VOCABULARY[language].both.count("{}") == 2
        assert all(VOCABULARY[language].styles[style] for style in VOCABULARY["en"].styles)


def test_background_phrases() -> None:
    assert background_phrase("blue", "en") == "on a blue background"
    assert background_phrase("orange", "en") == "on an orange background"
    assert background_phrase("blue", "ru") == "на синем фоне"
    assert background_phrase("blue", "de") == "auf blauem Hintergrund"
    assert background_phrase("blue", "zh") == "蓝色背景"
    with pytest.raises(DataError, match="'mauve'"):
        background_phrase("mauve", "en")


@pytest.mark.parametrize(
    ("label", "language", "wanted"),
    [
        ("A button (blood type)", "en", "A button"),
        ("Widder (Sternzeichen)", "de", "Widder"),
        ("woman’s hat", "en", "woman's hat"),
        ("woman: red hair", "en", "woman with red hair"),
        ("man walking: facing right", "en", "man walking facing right"),
        ("लाल सेब, सेवफल, लाल", "hi", "लाल सेब"),
        ("up!", "en", "up"),
        ("family: man, boy", "en", "family with man, boy"),
    ],
)
def test_clean_label(label: str, language: str, wanted: str) -> None:
    assert clean_label(label, language) == wanted


def test_animals_are_also_called_by_their_names(concepts: dict[str, tuple[int, Concept]]) -> None:
    assert plain_names(concepts["cat face"][1], "en") == ("cat face", "cat")
    smiley = Concept("1F600", "grinning face", "smileys", {"en": Words("grinning face")})
    assert plain_names(smiley, "en") == ("grinning face",)


def test_articles() -> None:
    assert with_article("apple") == "an apple"
    assert with_article("red apple") == "a red apple"
    assert with_article("glasses") == "glasses"
    assert with_article("glass of milk") == "a glass of milk"
    assert with_article("cactus") == "a cactus"


def test_only_what_has_no_side_is_mirrored(concepts: dict[str, tuple[int, Concept]]) -> None:
    assert {name: mirrorable(concept) for name, (_, concept) in concepts.items()} == {
        "keycap: 1": False,
        "red apple": True,
        "cat face": True,
        "backhand index pointing right": False,
        "one o’clock": True,
    }


def test_style_and_background_are_said_when_asked(concepts: dict[str, tuple[int, Concept]]) -> None:
    grammar = quiet(concepts, style=1.0, white_named=0.0, colour_named=1.0)
    apple = concepts["red apple"][0]
    rng = random.Random(0)
    for _ in range(30):
        text = grammar.caption(apple, rng, style="fluent-flat", background="blue", language="en").text
        assert "red apple" in text
        assert "flat" in text
        assert "blue" in text
        assert "white" not in grammar.caption(apple, rng, background="white", language="en").text
    russian = {grammar.caption(apple, rng, background="blue", language="ru").text for _ in range(20)}
    assert russian == {"красное яблоко на синем фоне", "красное яблоко, на синем фоне"}


def test_adjectives_stand_behind_the_article(concepts: dict[str, tuple[int, Concept]]) -> None:
    grammar = quiet(concepts, style=1.0, article=1.0)
    rng = random.Random(3)
    made = {grammar.caption(concepts["red apple"][0], rng, style="fluent-3d", language="en").text for _ in range(300)}
    assert {"a 3D red apple", "the 3D red apple", "an image of a 3D red apple", "a red apple, 3D render"} <= made
    assert not any(text.startswith("3D") or "3D a" in text or "3D the" in text for text in made)


def test_pairs_name_both(concepts: dict[str, tuple[int, Concept]]) -> None:
    grammar = quiet(concepts)
    apple, cat = concepts["red apple"][0], concepts["cat face"][0]
    rng = random.Random(0)
    assert {grammar.caption(apple, rng, language="ru", beside=cat).text for _ in range(9)} == {
        "красное яблоко и морда кошки"
    }
    # The cat has no German words: then only the apple is named.
    assert grammar.caption(apple, rng, language="de", beside=cat).text == "roter Apfel"


def test_tags_are_a_third_and_rare_ones_stand_alone(concepts: dict[str, tuple[int, Concept]]) -> None:
    mix = CaptionMix(**{**QUIET, "tags": 1 / 3})  # type: ignore[arg-type]
    grammar = CaptionGrammar([concept for _, concept in concepts.values()], mix)
    apple = concepts["red apple"][0]
    rng = random.Random(1)
    made = Counter(grammar.subject(apple, "en", rng) for _ in range(3000))
    assert 0.6 < made["red apple"] / 3000 < 0.73
    assert made["apple"] > made["food"]
    # "1:00" is no word, so it is never said.
    assert all("1:00" not in tag for tag in grammar.tags(apple, "ru")[0])


def test_languages_follow_their_weights(concepts: dict[str, tuple[int, Concept]]) -> None:
    grammar = quiet(concepts)
    rng = random.Random(5)
    apple = concepts["red apple"][0]
    drawn = Counter(grammar.caption(apple, rng).language for _ in range(4000))
    total = sum(LANGUAGES[code] for code in ("en", "ru", "de", "zh", "hi"))
    assert set(drawn) == {"en", "ru", "de", "zh", "hi"}
    assert drawn["en"] / 4000 == pytest.approx(LANGUAGES["en"] / total, abs=0.03)
    assert drawn["ru"] / 4000 == pytest.approx(LANGUAGES["ru"] / total, abs=0.03)


def test_verbatim_captions_stay_as_they_are() -> None:
    concept = Concept("x", "x", words={"en": Words("The Sea, at night: calm")}, verbatim=True)
    grammar = CaptionGrammar([concept], CaptionMix(tags=1.0, article=1.0))
    assert {grammar.caption(0, random.Random(i)).text for i in range(20)} == {"The Sea, at night: calm"}


def test_plain_caption_has_no_chance(concepts: dict[str, tuple[int, Concept]]) -> None:
    apple = concepts["red apple"][1]
    assert plain_caption(apple) == "red apple"
    assert plain_caption(apple, "zh", "fluent-3d", "blue") == "红苹果，3D，蓝色背景"
    assert plain_caption(apple, "de", "noto", "red") == "roter Apfel, noto auf rotem Hintergrund"
    with pytest.raises(DataError, match="'fr'"):
        plain_caption(apple, "fr")


def test_unknown_language_is_refused(concepts: dict[str, tuple[int, Concept]]) -> None:
    with pytest.raises(DataError, match="'tlh'"):
        CaptionGrammar([concept for _, concept in concepts.values()], CaptionMix(languages={"tlh": 1.0}))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    style=st.sampled_from(["", *VOCABULARY["en"].styles]),
    colour=st.sampled_from(["", *COLOURS]),
)
def test_captions_are_a_function_of_the_seed(seed: int, style: str, colour: str) -> None:
    concept = Concept("k", "sun", "travel", {code: Words(f"sun {code}", ("a tag", "b")) for code in LANGUAGES})
    grammar = CaptionGrammar([concept])
    first, again = (grammar.caption(0, random.Random(seed), style=style, background=colour) for _ in range(2))
    assert first == again
    assert first.text.strip() == first.text
    assert first.text
    assert "{}" not in first.text


def test_a_caption_says_which_attributes_it_names(concepts: dict[str, tuple[int, Concept]]) -> None:
    grammar = quiet(concepts, style=0.5, colour_named=0.5, white_named=0.5)
    seen = Counter[tuple[bool, bool]]()
    rng = random.Random(0)
    index = concepts["red apple"][0]
    for number in range(200):
        style, colour = ("noto", "noto-blob")[number % 2], ("white", "blue")[number // 2 % 2]
        found = grammar.caption(index, rng, style=style, background=colour, language="en")
        assert ("styles" in found.names) == (VOCABULARY["en"].styles[style][0] in found.text.replace(",", "").split())
        assert ("backgrounds" in found.names) == (colour in found.text.split())
        seen["styles" in found.names, "backgrounds" in found.names] += 1
    assert all(seen[pair] > 20 for pair in ((True, True), (True, False), (False, True), (False, False)))
    unknown = grammar.caption(index, rng, style="", background="")
    assert not unknown.names


NOTHING = CaptionGrammar([])
STYLE, BACKGROUND = frozenset({"styles"}), frozenset({"backgrounds"})


def test_a_caption_matches_the_images_of_which_it_is_true() -> None:
    facts = {
        "concepts": torch.tensor([0, 0, 0, 0, 1, 0]),
        "beside": torch.tensor([-1, -1, -1, -1, -1, 1]),
        "styles": torch.tensor([0, 1, 0, 1, 0, 0]),
        "backgrounds": torch.tensor([2, 3, 3, 2, 2, 2]),
    }
    texts = ("apple", "flat apple", "apple on red", "flat apple on blue", "pear", "apple and pear")
    named = (frozenset(), STYLE, BACKGROUND, STYLE | BACKGROUND, frozenset(), frozenset())
    found = NOTHING.matches(facts, [Caption(t, names=n) for t, n in zip(texts, named, strict=True)])
    assert found.int().tolist() == [
        [1, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_equal_captions_fit_each_others_images() -> None:
    none = torch.full((3,), -1)
    facts = {"concepts": torch.arange(3), "beside": none, "styles": none, "backgrounds": none}
    found = NOTHING.matches(facts, [Caption(text) for text in ("a face", "a dog", "a face")])
    assert found.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
