"""The 3.x U-Net on MindSpore; see `kandinsky.networks.unet3` for what it computes."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import (
    HIDDEN,
    Arrays,
    attention,
    compiled,
    conv3,
    convolved,
    doubled,
    group_norm,
    halved,
    heads_of,
    layer_norm,
    linear,
    matrix,
    padded_length,
    projected,
    windows,
)
from kandinsky.backends.mindspore.unet import UNetArrays
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.deep_cache import DeepFeatures
from kandinsky.networks.layers import sinusoid
from kandinsky.networks.prepared import Fixed, PreparedNetwork, prepare_unet
from kandinsky.networks.unet3 import MaskedRows, UNet3Condition, UNet3Config, read_condition
from kandinsky.networks.unet3_blocks import KERNELS

ROOM = 64
"""Texts are padded, as hidden, to a multiple of so many rows: beside the attention to the image they cost little, and
compiling the blocks for a new length costs a minute."""


class UNet3Arrays(UNetArrays):
    """The U-Net over its weights as arrays; a step takes and gives tensors of torch."""

    def __init__(self, config: UNet3Config, weights: Weights) -> None:
        super().__init__(weights, ".mixing.context_kv.weight")
        self.config = config

    def prepare(
        self, condition: UNet3Condition, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Fixed]:
        """See `UNet3.prepare`."""
        deep = DeepFeatures.of(deep_at, self.config.channels)
        null = self.weights.get("null_embedding")
        context, visible, mean = read_condition(condition, self._project, None if null is None else to_tensor(null))
        missing = padded_length(context.shape[1], ROOM) - context.shape[1]
        context, visible = F.pad(context, (0, 0, 0, missing)), F.pad(visible, (0, missing))
        pooled = self._pooled(context, visible, mean)
        states = to_array(context)
        contexts: list[Any] = [self._keys_and_values(states, name) for name in self._contexts]
        extra = [] if condition.extra is None else [condition.extra]
        return prepare_unet(self, pooled, contexts, times, extra, visible, deep)  # type: ignore[arg-type]

    def _project(self, hidden: Tensor, mask: Tensor, masked_rows: MaskedRows) -> Tensor:
        w = self.weights.at("projection")
        if masked_rows == "zero_states":
            hidden = torch.where(mask[..., None], hidden, 0)
        context = to_tensor(layer_norm(matrix(to_array(hidden), w["linear.weight"]), w.of("norm")))
        return torch.where(mask[..., None], context, 0) if masked_rows == "zero_context" else context

    def _keys_and_values(self, states: Array, name: str) -> Arrays:
        weight = self.weights[f"{name}.mixing.context_kv.weight"]
        heads = weight.shape[0] // 2 // self.config.head_dim
        k, v = ops.chunk(matrix(states, weight), 2, -1)
        return heads_of(k, heads), heads_of(v, heads)

    def _pooled(self, context: Tensor, visible: Tensor, mean: Tensor) -> Tensor:
        w, heads = self.weights.at("pooling"), self.config.time_dim // self.config.head_dim
        q = heads_of(matrix(to_array(mean[:, None]), w["q.weight"]), heads)
        k, v = ops.chunk(matrix(to_array(context), w["context_kv.weight"]), 2, -1)
        mixed = attention(q, heads_of(k, heads), heads_of(v, heads), _bias(visible))
        return to_tensor(matrix(mixed, w["out.weight"]))[:, 0]

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]:
        """See `UNet3.films`."""
        ratio_first = self.config.null_embedding
        features = sinusoid(t, self.config.stem, sines_first=True, inclusive=True, ratio_first=ratio_first)
        return self.films_of(features, pooled)

    def begin(self, x: Tensor, fixed: Fixed) -> tuple[Any, list[Any]]:
        """See `TwoDepths`; what it gives are arrays."""
        h = to_array(x.permute(0, 2, 3, 1))
        h = self._down(0, convolved((h,), windows(h.shape), self.weights.of("conv_in")), fixed)
        return h, [h] if len(self.config.channels) > 1 else []

    def deep(self, h: Any, fixed: Fixed) -> Any:
        """See `TwoDepths`."""
        levels = len(self.config.channels)
        skips = []
        for level in range(1, levels):
            h = self._down(level, h, fixed)
            skips.append(h)
        for depth in range(levels - 1):
            skip = skips.pop()
            h = self._up(depth, h if depth == 0 else ops.cat((h, skip), -1), fixed)
        return h

    def finish(self, h: Any, skips: list[Any], fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        h = self._up(len(self.config.channels) - 1, ops.cat((h, *skips), -1) if skips else h, fixed)
        layers = self.weights.of("norm_out", "conv_out")
        return to_tensor(_last((h,), windows(h.shape), layers, self.config.groups)).permute(0, 3, 1, 2).contiguous()

    def _down(self, level: int, x: Array, fixed: Fixed) -> Array:
        name = f"down.{level}"
        return self._triples(name, self._attended(f"{name}.attention", x, fixed), fixed)

    def _up(self, depth: int, x: Array, fixed: Fixed) -> Array:
        name = f"up.{depth}"
        return self._attended(f"{name}.attention", self._triples(name, x, fixed), fixed)

    def _triples(self, level: str, x: Array, fixed: Fixed) -> Array:
        for place in range(self.weights.count(f"{level}.triples")):
            name = f"{level}.triples.{place}"
            x = self._resnet(f"{name}.first", x, fixed)
            x = self._attended(f"{name}.attention", x, fixed)
            x = self._resnet(f"{name}.second", x, fixed)
        return x

    def _resnet(self, name: str, x: Array, fixed: Fixed) -> Array:
        w = self.weights.at(name)
        convolutions = [w.at("convolutions", place) for place in range(len(KERNELS))]
        films = tuple(self.film(f"{name}.convolutions.{place}.norm", fixed) for place in range(len(KERNELS)))
        up, down = w.of("upsample"), w.of("downsample")
        inner = convolutions[1].of("upsample"), convolutions[2].of("downsample")
        first = x.shape[:3] + convolutions[1]["conv.weight"].shape[1:]
        size = (first[0], first[1] * 2, first[2] * 2, first[3] // 9) if up else (*first[:3], first[3] // 9)
        layers = tuple(tensor for one in convolutions for tensor in one.of("conv"))
        return _resnet((x,), films, layers, up, down, *inner, w.of("shortcut"), windows(size), self.config.groups)

    def _attended(self, name: str, x: Array, fixed: Fixed) -> Array:
        """x through an attention block, where there is one."""
        w = self.weights.at(name)
        if not w:
            return x
        films = tuple(self.film(f"{name}.{norm}", fixed) for norm in ("norm1", "norm2"))
        layers = w.of("mixing.qkv", "mixing.q", "mixing.out", "up", "down")
        context: Any = ()
        if name in self._contexts:
            assert fixed.visible is not None
            context = (*fixed.contexts[self._contexts.index(name)], _bias(fixed.visible))
        return _attention_block((x,), films, layers, context, self.config.head_dim, self.config.groups)


def _bias(visible: Tensor) -> Array:
    return to_array(torch.where(visible, 0.0, HIDDEN))


def _modulated(x: Array, film: Array, groups: int) -> Array:
    """A conditional norm."""
    scale, shift = ops.chunk(film, 2, -1)
    return (group_norm(x, groups, 1e-5) * (1 + scale) + shift).astype(x.dtype)


@compiled
def _resnet(
    given: Arrays,
    films: Arrays,
    layers: Arrays,
    up: Arrays,
    down: Arrays,
    inner_up: Arrays,
    inner_down: Arrays,
    shortcut: Arrays,
    seen: Arrays,
    groups: int,
) -> Array:
    """See `unet3_blocks.Resnet`; layers that are not there are empty tuples."""
    x = given[0]
    h = linear(ops.silu(_modulated(x, films[0], groups)), layers[0], layers[1])
    h = ops.silu(_modulated(h, films[1], groups))
    if len(inner_up) > 0:
        h = doubled(h, inner_up[0], inner_up[1])
    h = conv3(h, seen, layers[2], layers[3])
    h = conv3(ops.silu(_modulated(h, films[2], groups)), seen, layers[4], layers[5])
    if len(inner_down) > 0:
        h = halved(h, inner_down[0], inner_down[1])
    h = linear(ops.silu(_modulated(h, films[3], groups)), layers[6], layers[7])
    if len(up) > 0:
        x = doubled(x, up[0], up[1])
    x = projected(x, shortcut)
    if len(down) > 0:
        x = halved(x, down[0], down[1])
    return x + h


@compiled
def _attention_block(
    given: Arrays, films: Arrays, layers: Arrays, context: Arrays, head_dim: int, groups: int
) -> Array:
    """See `unet3_blocks.Attention`; `context` are keys, values and what hides rows, empty for self-attention."""
    x = given[0]
    b, height, width, c = x.shape
    heads = c // head_dim
    tokens = matrix(_modulated(x, films[0], groups).reshape(b, height * width, c), layers[0])
    if len(context) > 0:
        mixed = attention(heads_of(tokens, heads), context[0], context[1], context[2])
    else:
        q, k, v = ops.chunk(tokens, 3, -1)
        mixed = attention(heads_of(q, heads), heads_of(k, heads), heads_of(v, heads))
    x = x + matrix(mixed, layers[1]).reshape(b, height, width, c)
    return x + matrix(ops.silu(matrix(_modulated(x, films[1], groups), layers[2])), layers[3])


@compiled
def _last(given: Arrays, seen: Arrays, layers: Arrays, groups: int) -> Array:
    x = given[0]
    y = group_norm(x, groups, 1e-5).astype(x.dtype) * layers[0] + layers[1]
    return conv3(ops.silu(y), seen, layers[2], layers[3])
