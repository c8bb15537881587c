"""The recorded weights, drawn again: they were random, so a seed and a list of shapes hold them all.

They came from torch's generator on a CPU. What it draws is a formula over a Mersenne Twister (Matsumoto and
Nishimura 1998; Box and Muller 1958), which is followed here in double precision, so that the numbers do not
depend on the machine or on the version of any library. A few numbers in ten thousand then round to half
precision otherwise than they did in torch's single precision; they are listed.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RECIPES = Path(__file__).parent.parent / "data" / "reference" / "weights.json"
CHUNK = 16
"""Numbers are drawn in chunks: 8 radii with 8 angles. Fewer than 16 are drawn in pairs instead."""

Numbers = NDArray[np.float64]


class Normals:
    """Standard normal numbers in the order in which torch's generator on a CPU gives them."""

    def __init__(self, seed: int) -> None:
        self.words = np.random.RandomState(seed)
        self.kept: float | None = None

    def draw(self, count: int) -> Numbers:
        """The next `count` numbers, in double precision."""
        if count < CHUNK:
            return np.array([self._single() for _ in range(count)])
        uniform = self._uniform(count)
        whole = count - count % CHUNK
        numbers = np.empty(count)
        numbers[:whole] = _normal(uniform[:whole])
        if count % CHUNK:
            # The last chunk overlaps the one before it, and has uniform numbers of its own.
            numbers[-CHUNK:] = _normal(self._uniform(CHUNK))
        return numbers

    def _word(self, count: int) -> NDArray[np.uint32]:
        return np.frombuffer(self.words.bytes(4 * count), "<u4")

    def _uniform(self, count: int) -> Numbers:
        return (self._word(count) & 0xFFFFFF) / 2.0**24

    def _single(self) -> float:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            return kept
        high, low, high2, low2 = (int(word) for word in self._word(4))
        angle = 2 * np.pi * ((high << 32 | low) & (2**53 - 1)) / 2.0**53
        radius = np.sqrt(-2 * np.log1p(-((high2 << 32 | low2) & (2**53 - 1)) / 2.0**53))
        self.kept = float(radius * np.sin(angle))
        return float(radius * np.cos(angle))


def _normal(uniform: Numbers) -> Numbers:
    pairs = uniform.reshape(-1, 2, CHUNK // 2)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    # The angle is rounded as torch does: a sine or cosine near zero is made of that rounding.
    angle = (np.float32(2 * np.pi) * pairs[:, 1].astype(np.float32)).astype(np.float64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def rounded(shape: list[int], shift: float, square: float, normals: Normals) -> NDArray[np.float16]:
    """Numbers of mean `shift` and variance 1 / `square`, in half precision."""
    drawn = normals.draw(int(np.prod(shape))) / np.sqrt(square) + shift
    return drawn.astype(np.float16).reshape(shape)


def digest(tensors: dict[str, Tensor]) -> str:
    """A fingerprint of names, shapes and numbers."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(f"{name} {tuple(tensors[name].shape)}".encode())
        whole.update(tensors[name].numpy().tobytes())
    return whole.hexdigest()


@cache
def recipes() -> dict[str, Any]:
    """How each file was drawn.

    The seed; name, shape, mean and inverse variance of each tensor, in the order of drawing; which names hold
    the same tensor; the places of numbers that torch rounded otherwise, and by how many steps; and the
    fingerprint of all.
    """
    return dict(json.loads(RECIPES.read_text(encoding="utf-8")))


def draw(file: str) -> dict[str, Tensor]:
    """The tensors of a file, in half precision; an AssertionError when they are not those recorded."""
    recipe, tensors = recipes()[file], dict[str, Tensor]()
    normals = Normals(recipe["seed"])
    for name, shape, shift, square in recipe["tensors"]:
        values = rounded(shape, shift, square, normals)
        bits = values.reshape(-1).view(np.int16)
        places, steps = recipe["steps"].get(name, ([], []))
        bits[places] += np.array(steps, np.int16)
        tensors[name] = torch.from_numpy(values)
    tensors |= {name: tensors[other] for name, other in recipe["ties"].items()}
    assert digest(tensors) == recipe["sha256"], f"{file} was drawn otherwise than recorded"
    return tensors
