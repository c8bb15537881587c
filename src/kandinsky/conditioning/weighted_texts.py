"""Weights of words as they act: on the states that a text encoder has for them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kandinsky.core.prompt_weights import WeightedText


def token_weights(spans: Sequence[tuple[int, int]], text: WeightedText) -> Tensor:
    """The weights (L,) of tokens that stand for characters `spans` of a text.

    It is the mean over the characters of a token but spaces, and 1 for tokens without any, such as marks of the end.
    """
    found = []
    for begin, end in spans:
        own = [text.weights[k] for k in range(begin, end) if not text.text[k].isspace()]
        found.append(sum(own) / len(own) if own else 1.0)
    return torch.tensor(found)


def weighted_states(states: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """States (1, L, W) of a text's tokens, moved from those of the empty text, `empty`, by `weights` (up to L).

    A state becomes empty + weight (state - empty); with weight 1 it is left alone, to the bit, and so are states behind
    the weights. To multiply the states, as AUTOMATIC1111 does, would hardly act on decoders whose projection of them
    is followed by a norm: a norm takes a factor out again. Source: ComfyUI, `comfy/sd1_clip.py`
    (`encode_token_weights`), for CLIP; here for every encoder.
    """
    full = torch.ones(states.shape[1])
    full[: len(weights)] = weights
    full = full.to(states.device)[None, :, None]
    nothing = empty.float()
    moved = nothing + full * (states.float() - nothing)
    return torch.where(full == 1, states, moved.to(states.dtype))
