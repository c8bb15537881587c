"""Randomness of training: every draw's generator is a function of (seed, what for, step), so a resumed run
has none to remember and a batch may be prepared ahead of its step.
"""

import hashlib
import random

import numpy as np
import torch


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose, for example `generator(7, "noise", step)`.

    Neighbouring steps get unrelated streams because the path is hashed.
    """
    text = "/".join(str(part) for part in (seed, *path))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return torch.Generator(device).manual_seed(number >> 1)


def seed_globals(seed: int) -> None:
    """Seeds the global generators of torch, numpy and python, for what draws from those (dropout)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
