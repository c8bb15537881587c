"""Captions of images: as they were written, or sentences that fit all of them."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Facts = Mapping[str, Tensor]
"""What is known of B images, each (B,) int64: `concepts` (what they show), `styles`, `backgrounds`, `beside`
(the concept on the right, -1 without one), and what a recipe adds.
"""
_NAMES_A_SIDE = re.compile(
    r"\b(left|right|clockwise|counterclockwise|curving|tilted|facing|\w+wards?)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Caption:
    """A caption, its language code, and which facts besides what is shown it names."""

    text: str
    language: str = "en"
    names: frozenset[str] = frozenset()


class Captioner(Protocol):
    """Makes captions of what images show."""

    def captions(self, facts: Facts, rng: random.Random) -> list[Caption]:
        """Draws a caption for each of B images; every choice is drawn from `rng` and nothing else."""

    def matches(self, facts: Facts, said: Sequence[Caption]) -> Tensor:
        """Which caption (row) is true of which image (column) of a batch, (B, B) bool."""

    def mirrorable(self, concept: int) -> bool:
        """Whether the mirrored image still shows the concept."""

    def corpus(self) -> Iterator[str]:
        """Texts, in a fixed order, that a tokenizer is learned from."""


@dataclass(frozen=True)
class WrittenCaptions:
    """The captions that were written for images: concept i is what caption i says."""

    written: Sequence[Caption]

    def captions(self, facts: Facts, rng: random.Random) -> list[Caption]:
        """The captions themselves; two images side by side have both."""
        found = []
        for concept, other in zip(facts["concepts"].tolist(), facts["beside"].tolist(), strict=True):
            caption = self.written[concept]
            joined = f"{caption.text}, {self.written[other].text}" if other >= 0 else caption.text
            found.append(Caption(joined, caption.language))
        return found

    def matches(self, facts: Facts, said: Sequence[Caption]) -> Tensor:
        """A caption is true of the images that have the same one."""
        return equal_texts(said)

    def mirrorable(self, concept: int) -> bool:
        return not names_a_side(self.written[concept].text)

    def corpus(self) -> Iterator[str]:
        return (caption.text for caption in self.written)


@dataclass(frozen=True)
class Templates:
    """Says one of the same sentences of every image, whatever it shows."""

    sentences: tuple[str, ...]

    def captions(self, facts: Facts, rng: random.Random) -> list[Caption]:
        return [Caption(rng.choice(self.sentences)) for _ in facts["concepts"]]

    def matches(self, facts: Facts, said: Sequence[Caption]) -> Tensor:
        return torch.ones(len(said), len(said), dtype=torch.bool)

    def mirrorable(self, concept: int) -> bool:
        return True

    def corpus(self) -> Iterator[str]:
        return iter(self.sentences)


def names_a_side(text: str) -> bool:
    """Whether a text speaks of left and right in English, so that a mirrored image would be another."""
    return _NAMES_A_SIDE.search(text) is not None


def equal(values: Tensor) -> Tensor:
    """Which of values (B,) are the same, (B, B) bool."""
    return values[:, None] == values[None, :]


def equal_texts(said: Sequence[Caption]) -> Tensor:
    """Which captions have the same text, (B, B) bool."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(caption.text for caption in said))}
    return equal(torch.tensor([numbers[caption.text] for caption in said]))


def names(said: Sequence[Caption], fact: str) -> Tensor:
    """Which captions name a fact, (B,) bool."""
    return torch.tensor([fact in caption.names for caption in said])
