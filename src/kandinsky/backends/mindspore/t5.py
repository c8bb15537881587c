"""The T5 text encoder on MindSpore; see `kandinsky.networks.t5` for what it computes."""

from typing import Any

import torch.nn.functional as F
from mindspore import Tensor as Array
from mindspore import dtype as mstype
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import (
    HIDDEN,
    Arrays,
    attention,
    compiled,
    heads_of,
    matrix,
    padded_length,
    rms_norm,
)
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.t5 import HEADROOM, T5Config, distance_buckets


class T5Arrays:
    """The encoder over its weights as arrays: ids and mask (B, L) -> hidden states (B, L, W), all tensors of torch."""

    def __init__(self, config: T5Config, weights: Weights) -> None:
        self.config, self.weights = config, weights

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `T5Encoder.forward`."""
        w, config = self.weights, self.config
        # Padding is further away than what is masked: a softmax over masked tokens only weighs them alike.
        missing = padded_length(ids.shape[1]) - ids.shape[1]
        hidden = F.pad((mask == 0) * HIDDEN, (0, missing), value=2 * HIDDEN)
        length, own = ids.shape[1] + missing, ids.shape[1]
        ids = F.pad(ids, (0, missing))
        places = to_array(distance_buckets(length, config.buckets, config.max_distance).flatten().int())
        bias = ops.gather(w["distances.weight"].astype(mstype.float32), places, 0)
        bias = bias.reshape(1, length, length, -1).permute(0, 3, 1, 2)
        bias = bias + to_array(hidden[:, None, None])
        tokens = ops.gather(w["tokens.weight"], to_array(ids.flatten().int()), 0)
        x: Any = tokens.astype(mstype.float32).reshape(*ids.shape, -1)
        sizes = config.heads, config.eps, config.gate == "gelu_tanh"
        for place in range(config.layers):
            layers = w.at("blocks", place).of("norm1", "q", "k", "v", "out", "norm2", "gate", "up", "down")
            x = _block((x, bias), layers, *sizes)
        return to_tensor(rms_norm(x, w["norm.weight"], config.eps))[:, :own].contiguous()


@compiled
def _block(given: Arrays, layers: Arrays, heads: int, eps: float, gelu: bool) -> Array:
    """See `kandinsky.networks.t5.Block`."""
    x, bias = given
    norm1, q, k, v, out, norm2, gate, up, down = layers
    y = rms_norm(x, norm1, eps)
    parts = heads_of(matrix(y, q), heads), heads_of(matrix(y, k), heads), heads_of(matrix(y, v), heads)
    x = x + matrix(attention(parts[0], parts[1], parts[2], bias, False), out).astype(mstype.float32)
    y = rms_norm(x, norm2, eps)
    gates = matrix(y, gate)
    opened = ops.gelu(gates, approximate="tanh") if gelu else ops.silu(gates)
    # The product and its sums leave the range of float16; by a power of two they are scaled exactly.
    sums = matrix(opened / HEADROOM * matrix(y, up), down)
    return x + sums.astype(mstype.float32) * HEADROOM
