"""What images are found to show, on images that are known."""

import prompt_following
import pytest
import torch

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji.colours import NAMES
from kandinsky.recipes.emoji.vocabulary import COLOURS, NOUN_LANGUAGES, plain_nouns


def draw_image(ground: str, thing: str) -> torch.Tensor:
    """(3, 64, 64) in [-1, 1]: a square of one named colour on another."""
    colours = {name: torch.tensor(rgb) / 127.5 - 1 for name, rgb in COLOURS.items()}
    pixels = colours[ground][:, None, None].repeat(1, 64, 64)
    pixels[:, 16:48, 16:48] = colours[thing][:, None, None]
    return pixels


def test_grounds_and_things_are_told_apart() -> None:
    pairs = [("white", "red"), ("green", "red"), ("red", "green"), ("white", "black"), ("blue", "yellow")]
    images = torch.stack([draw_image(*pair) for pair in pairs])
    assert [NAMES[i] for i in prompt_following.nearest_grounds(images).tolist()] == [ground for ground, _ in pairs]
    assert [NAMES[i] for i in prompt_following.thing_colours(images).tolist()] == [thing for _, thing in pairs]
    assert prompt_following.white(images).tolist() == [True, False, False, True, False]


def test_an_empty_image_shows_nothing() -> None:
    assert prompt_following.thing_colours(torch.ones(1, 3, 64, 64)).tolist() == [-1]


def test_every_language_is_asked_the_same_things() -> None:
    for language in NOUN_LANGUAGES:
        prompts = prompt_following.common_things(language)
        assert len(prompts) == 20
        assert [one.key for one in prompts] == prompt_following.COMMON
    assert prompt_following.common_things("en")[7].prompt == "an apple"
    assert prompt_following.common_things("zh")[7].prompt == "苹果"


def test_colours_are_asked_as_people_do() -> None:
    prompts = {one.prompt: one for one in prompt_following.coloured_things()}
    assert len(prompts) == 64
    assert prompts["a red car"].colour == NAMES.index("red")
    assert "an orange cat" in prompts


def test_choices_hold_every_thing_once() -> None:
    keys = [*plain_nouns(), *(f"X{i}" for i in range(100))]
    found = prompt_following.choices(keys)
    assert len(found) == len(set(found)) == 200
    assert set(prompt_following.alike(prompt_following.COMMON)) <= set(found)
    assert found == prompt_following.choices(list(reversed(keys)))
    assert prompt_following.alike(["1F408", "1F431", "X1"]) == ["1F408", "1F408", "X1"]
    with pytest.raises(DataError):
        prompt_following.choices(["X1"])


def test_blind_prompts_are_forty_and_stay() -> None:
    prompts = prompt_following.blind_prompts()
    assert len(prompts) == len(set(prompts)) == 40
    assert prompts == prompt_following.blind_prompts()
    assert prompts != prompt_following.blind_prompts(1)
