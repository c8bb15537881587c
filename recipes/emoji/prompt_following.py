"""How well images follow prompts: things, their colours, and their backgrounds."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji.colours import NAMES, lab_of, target_lab
from kandinsky.recipes.emoji.phrases import coloured
from kandinsky.recipes.emoji.recolour import dominant
from kandinsky.recipes.emoji.vocabulary import NOUN_LANGUAGES, plain_nouns

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

T = TypeVar("T")

COMMON = [
    *("1F697", "1F3E0", "1F333", "1F431", "1F436", "1F41F", "1F426", "1F34E", "1F34C", "1F355"),
    *("2615", "1F33B", "2B50", "2600", "2764", "1F511", "1F4D5", "1F6B2", "1F3B8", "1F3A9"),
]
"""Car, house, tree, cat, dog, fish, bird, apple, banana, pizza, cup, sunflower, star, sun, heart, key, book,
bicycle, guitar, hat."""
COLOURED = ["1F697", "1F431", "1F34E", "1F3E0", "1F339", "2764", "1F4D5", "1F455"]
"""Car, cat, apple, house, rose, heart, book, shirt."""
THING_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
GROUNDED = ["1F697", "1F431", "1F34E", "1F3E0", "1F333", "2B50"]
CHOICES = 200
"""Among how many things the one of the prompt has to be found."""

BORDER = 0.04
"""The share of the side that counts as the edge of an image, where its ground is seen."""
UNLIKE = 14.0
"""In Lab: what differs from the ground by more is the thing."""
WHITE_ENOUGH = 92.0


@dataclass(frozen=True)
class ThingPrompt:
    """A prompt, the code points of what it names, and the colour that it names, by number; -1 for none."""

    prompt: str
    key: str
    colour: int = -1


def common_things(language: str) -> list[ThingPrompt]:
    """Prompts for the commonest things by their first plain words, with an article in English."""
    return [ThingPrompt(_said(key, language), key) for key in COMMON]


def _said(key: str, language: str) -> str:
    noun = plain_nouns()[key][language][0]
    if language != "en":
        return noun.word
    return f"{'an' if noun.word[0] in 'aeiou' else 'a'} {noun.word}"


class _Commonest(random.Random):
    """Stands for chance where phrases are drawn: always the commonest way of saying it."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: "SupportsLenAndGetItem[T]") -> T:
        return seq[0]


def coloured_things(language: str = "en") -> list[ThingPrompt]:
    """Eight things in eight colours."""
    found = []
    for key in COLOURED:
        for colour in THING_COLOURS:
            phrase = coloured(plain_nouns()[key][language][0], colour, language, _Commonest())
            if language == "en":
                phrase = f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
            found.append(ThingPrompt(phrase, key, NAMES.index(colour)))
    return found


def alike(keys: Sequence[str]) -> list[str]:
    """For code points those of the first thing of the same plain name: both drawings of cats are a cat."""
    first: dict[str, str] = {}
    nouns = plain_nouns()
    for key, words in nouns.items():
        first.setdefault(words["en"][0].word, key)
    return [first[nouns[key]["en"][0].word] if key in nouns else key for key in keys]


def choices(keys: Sequence[str], count: int = CHOICES) -> list[str]:
    """`count` different things: those that prompts name, and others in a fixed shuffle.

    `keys` are the code points of all things that are shown. Raises DataError when one of a prompt is not.
    """
    shown = dict.fromkeys(alike(sorted(set(keys))))
    wanted = dict.fromkeys(alike([*COMMON, *COLOURED, *GROUNDED]))
    if missing := [key for key in wanted if key not in shown]:
        raise DataError(f"There is no image of {missing[0]}.", "Measure with the groups core and faces.")
    others = [key for key in shown if key not in wanted]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
    return [*wanted, *(others[i] for i in order)][:count]


def grounds(images: Tensor) -> Tensor:
    """The grounds of images (B, 3, H, W) in [-1, 1], in Lab (B, 3): the medians of their edges."""
    wide = max(1, round(BORDER * images.shape[-1]))
    edge = torch.ones(images.shape[-2:], dtype=torch.bool)
    edge[wide:-wide, wide:-wide] = False
    pixels = (images[..., edge].float() / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    return lab_of(pixels.median(dim=1).values)


def white(images: Tensor) -> Tensor:
    """Which images (B,) bool have a white ground."""
    found = grounds(images)
    found_white: Tensor = (found[:, 0] > WHITE_ENOUGH) & (found[:, 1:].norm(dim=1) < 8)
    return found_white


def things(images: Tensor) -> list[Tensor]:
    """The pixels (P, 3) in Lab of what stands before the ground of each image."""
    lab = lab_of((images.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))
    away = (lab - grounds(images)[:, None, None]).norm(dim=-1) > UNLIKE
    return [pixels[mask] for pixels, mask in zip(lab, away, strict=True)]


def thing_colours(images: Tensor) -> Tensor:
    """The named colour (B,) of the largest cluster of what each image shows, -1 where nothing is shown.

    A white thing on a white ground is seen by its edges alone.
    """
    found = []
    for pixels in things(images):
        if len(pixels) < 16:
            found.append(-1)
            continue
        *_, votes, _ = dominant(pixels)
        found.append(int(votes[1:].argmax()) if int(votes[1:].sum()) else -1)
    return torch.tensor(found)


def nearest_grounds(images: Tensor) -> Tensor:
    """Which of the twelve named colours (B,) each ground is nearest to."""
    targets = torch.stack([target_lab(number) for number in range(len(NAMES))])
    return torch.cdist(grounds(images), targets).argmin(dim=1)


def blind_prompts(seed: int = 0) -> list[str]:
    """Forty shuffled prompts for the commonest things: 22 in English, 6 in each of the other languages."""
    draws = torch.Generator().manual_seed(seed)
    keys = list(dict.fromkeys(alike(list(plain_nouns()))))
    order = iter(torch.randperm(len(keys), generator=draws).tolist())
    counts = {language: 22 if language == "en" else 6 for language in NOUN_LANGUAGES}
    prompts = [_said(keys[next(order)], language) for language, count in counts.items() for _ in range(count)]
    return [prompts[i] for i in torch.randperm(len(prompts), generator=draws).tolist()]
