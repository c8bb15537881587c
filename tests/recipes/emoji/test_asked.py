"""What images are found to show, on images that are known."""

import pytest
import torch

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji import asked
from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.plain_words import LANGUAGES, plain_nouns
from kandinsky.recipes.emoji.vocabulary import COLOURS


def draw_image(ground: str, thing: str) -> torch.Tensor:
    """(3, 64, 64) in [-1, 1]: a square of one named colour on another."""
    colours = {name: torch.tensor(rgb) / 127.5 - 1 for name, rgb in COLOURS.items()}
    pixels = colours[ground][:, None, None].repeat(1, 64, 64)
    pixels[:, 16:48, 16:48] = colours[thing][:, None, None]
    return pixels


def test_grounds_and_things_are_told_apart() -> None:
    pairs = [("white", "red"), ("green", "red"), ("red", "green"), ("white", "black"), ("blue", "yellow")]
    images = torch.stack([draw_image(*pair) for pair in pairs])
    assert [NAMES[i] for i in asked.nearest_grounds(images).tolist()] == [ground for ground, _ in pairs]
    assert [NAMES[i] for i in asked.thing_colours(images).tolist()] == [thing for _, thing in pairs]
    assert asked.white(images).tolist() == [True, False, False, True, False]


def test_an_empty_image_shows_nothing() -> None:
    assert asked.thing_colours(torch.ones(1, 3, 64, 64)).tolist() == [-1]


def test_every_language_is_asked_the_same_things() -> None:
    for language in LANGUAGES:
        prompts = asked.common_things(language)
        assert len(prompts) == 20
        assert [one.key for one in prompts] == asked.COMMON
    assert asked.common_things("en")[7].prompt == "an apple"
    assert asked.common_things("zh")[7].prompt == "苹果"


def test_colours_are_asked_as_people_do() -> None:
    prompts = {one.prompt: one for one in asked.coloured_things()}
    assert len(prompts) == 64
    assert prompts["a red car"].colour == NAMES.index("red")
    assert "an orange cat" in prompts


def test_choices_hold_every_thing_once() -> None:
    keys = [*plain_nouns(), *(f"X{i}" for i in range(100))]
    found = asked.choices(keys)
    assert len(found) == len(set(found)) == 200
    assert set(asked.alike(asked.COMMON)) <= set(found)
    assert found == asked.choices(list(reversed(keys)))
    assert asked.alike(["1F408", "1F431", "X1"]) == ["1F408", "1F408", "X1"]
    with pytest.raises(DataError):
        asked.choices(["X1"])


def test_blind_prompts_are_forty_and_stay() -> None:
    prompts = asked.blind_prompts()
    assert len(prompts) == len(set(prompts)) == 40
    assert prompts == asked.blind_prompts()
    assert prompts != asked.blind_prompts(1)
