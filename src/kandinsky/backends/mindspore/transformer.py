"""The pre-norm block that the prior and CLIP's towers share, on MindSpore; see `kandinsky.networks.layers`."""

from typing import Any

import torch
from mindspore import Tensor as Array
from mindspore import ops

from kandinsky.backends.mindspore.layers import HIDDEN, Arrays, attention, compiled, heads_of, layer_norm, linear
from kandinsky.backends.mindspore.weights import Weights, to_array


def blocks(w: Weights, x: Array, bias: Arrays, heads: int, activation: str, eps: float) -> Array:
    """Tokens x (B, L, W) through all `blocks` of a network; `bias`, empty or (B, 1, L, L), is added to the logits."""
    for place in range(w.count("blocks")):
        x, _, _ = extended(w.at("blocks", place), x, bias, (), heads, activation, eps)
    return x


def extended(
    w: Weights, x: Array, bias: Arrays, past: Arrays, heads: int, activation: str, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """See `Block.extend`; `past` is empty, or keys and values."""
    layers = w.of("norm1", "attention.qkv", "attention.out", "norm2", "mlp.up", "mlp.down")
    made: tuple[Array, Array, Array] = _block((x,), bias, past, layers, heads, activation == "gelu", eps)
    return made


def causal(length: int) -> Arrays:
    """The bias that hides later tokens from earlier ones."""
    return (to_array(torch.full((1, 1, length, length), HIDDEN).triu(1)),)


def activated(x: Array, gelu: bool) -> Array:
    """GELU, or else its approximation by a sigmoid."""
    return ops.gelu(x, approximate="none") if gelu else x * ops.sigmoid(1.702 * x)


@compiled
def _block(
    given: Arrays, bias: Arrays, past: Arrays, layers: Arrays, heads: int, gelu: bool, eps: float
) -> tuple[Any, Any, Any]:
    x = given[0]
    y = layer_norm(x, layers[0:2], eps)
    q, k, v = ops.chunk(linear(y, layers[2], layers[3]), 3, -1)
    k, v = heads_of(k, heads), heads_of(v, heads)
    if len(past) > 0:
        k, v = ops.cat((past[0], k), 2), ops.cat((past[1], v), 2)
    mixed = attention(heads_of(q, heads), k, v, bias[0] if len(bias) > 0 else None)
    x = x + linear(mixed, layers[4], layers[5])
    y = linear(layer_norm(x, layers[6:8], eps), layers[8], layers[9])
    return x + linear(activated(y, gelu), layers[10], layers[11]), k, v
