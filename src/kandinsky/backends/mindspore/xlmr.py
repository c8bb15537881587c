"""The multilingual text encoder on MindSpore; see `kandinsky.networks.xlmr` for what it computes."""

import torch
from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import HIDDEN, Arrays, attention, compiled, heads_of, layer_norm, linear
from kandinsky.backends.mindspore.transformer import activated
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.xlmr import MultilingualClipConfig


class MultilingualClipArrays:
    """The encoder over its weights as arrays: ids and mask (B, L) -> hidden states (B, L, W) and text embedding (B, P),
    all tensors of torch."""

    def __init__(self, config: MultilingualClipConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights

    def __call__(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `MultilingualClip.forward`."""
        w, config = self.weights, self.config
        tokens = ops.gather(w["tokens.weight"], to_array(ids.flatten().int()), 0)
        places = ops.gather(w["positions.weight"], to_array(config.places(ids).flatten().int()), 0)
        x = layer_norm((tokens + w["segment"] + places).reshape(*ids.shape, -1), w.of("norm"), config.eps)
        bias = to_array((mask[:, None, None] == 0) * HIDDEN)
        for place in range(config.layers):
            layers = w.at("blocks", place).of("attention.qkv", "attention.out", "norm1", "mlp.up", "mlp.down", "norm2")
            x = _block((x, bias), layers, config.heads, config.eps)
        hidden = to_tensor(x)
        weights = mask.to(torch.float32)[:, :, None]
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return hidden, to_tensor(linear(to_array(mean.to(hidden.dtype)), *w.of("projection")))


@compiled
def _block(given: Arrays, layers: Arrays, heads: int, eps: float) -> Array:
    """See `kandinsky.networks.xlmr.Block`."""
    x, bias = given
    q, k, v = ops.chunk(linear(x, layers[0], layers[1]), 3, -1)
    mixed = attention(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), bias)
    x = layer_norm(x + linear(mixed, layers[2], layers[3]), layers[4:6], eps)
    y = activated(linear(x, layers[6], layers[7]), True)
    return layer_norm(x + linear(y, layers[8], layers[9]), layers[10:12], eps)
