"""The 2.x U-Net on MindSpore; see `kandinsky.networks.unet2` for what it computes."""

from collections.abc import Collection, Sequence
from typing import Any

from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import (
    Arrays,
    attention,
    averaged,
    compiled,
    conv3,
    convolved,
    group_norm,
    heads_of,
    layer_norm,
    linear,
    nearest,
    projected,
    windows,
)
from kandinsky.backends.mindspore.unet import UNetArrays
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.deep_cache import DeepFeatures
from kandinsky.networks.layers import sinusoid
from kandinsky.networks.prepared import Fixed, PreparedNetwork, prepare_unet
from kandinsky.networks.unet2 import HintEncoder, UNet2Condition, UNet2Config
from kandinsky.networks.unet2_conditioning import ConditionKind, given

CONDITIONS: tuple[ConditionKind, ...] = ("image", "image_hint", "text_image")
"""What the U-Nets are conditioned on that are here."""
SAME, DOWN, UP = 0, 1, 2
"""What a residual block does to the size."""


class UNet2Arrays(UNetArrays):
    """The U-Net over its weights as arrays; a step takes and gives tensors of torch."""

    def __init__(self, config: UNet2Config, weights: Weights) -> None:
        super().__init__(weights, ".context_kv.weight")
        self.config = config

    def prepare(
        self, condition: UNet2Condition, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Fixed]:
        """See `UNet2.prepare`."""
        deep = DeepFeatures.of(deep_at, self.config.channels)
        tokens, pooled = self._conditioning(condition)
        contexts: list[Any] = [self._keys_and_values(tokens, name) for name in self._contexts]
        return prepare_unet(self, to_tensor(pooled), contexts, times, self._extra(condition), deep=deep)  # type: ignore[arg-type]

    def _conditioning(self, condition: UNet2Condition) -> tuple[Array, Array]:
        """Context tokens, and the addition to the time embedding; see `networks.unet2_conditioning`."""
        w = self.weights.at("conditioning")
        image = to_array(given(condition.image_embedding, "image_embedding"))
        tokens = linear(image, *w.of("tokens")).reshape(len(image), -1, self.config.context_dim)
        pooled = linear(image, *w.of("pooled"))
        if self.config.condition != "text_image":
            return layer_norm(tokens, w.of("tokens_norm")), layer_norm(pooled, w.of("pooled_norm"))
        text = linear(to_array(given(condition.text_hidden, "text_hidden")), *w.of("text_tokens"))
        said = linear(to_array(given(condition.text_embedding, "text_embedding")), *w.of("text_pooled"))
        return ops.cat((tokens, text), 1), pooled + layer_norm(said, w.of("text_pooled_norm"))

    def _keys_and_values(self, tokens: Array, name: str) -> Arrays:
        both = linear(tokens, *self.weights.of(f"{name}.context_kv"))
        k, v = ops.chunk(both, 2, -1)
        heads = k.shape[-1] // self.config.head_dim
        return heads_of(k, heads), heads_of(v, heads)

    def _extra(self, condition: UNet2Condition) -> list[Tensor]:
        """The channels behind the latents; see `HintEncoder`."""
        extras = [] if condition.extra is None else [condition.extra]
        if self.config.condition == "image_hint":
            h = to_array(given(condition.hint, "hint").permute(0, 2, 3, 1))
            for place, (_, _, stride) in enumerate(HintEncoder.PLAN):
                layer = self.weights.at("hint.convs").of(str(place))
                h = convolved((ops.silu(h) if place else h,), windows(h.shape, stride, True), layer, stride)
            extras.append(to_tensor(h).permute(0, 3, 1, 2))
        return extras

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]:
        """See `UNet2.films`."""
        features = sinusoid(t, self.config.channels[0])
        return self.films_of(features, pooled)

    def begin(self, x: Tensor, fixed: Fixed) -> tuple[Any, list[Any]]:
        """See `TwoDepths`; what it gives are arrays."""
        h = to_array(x.permute(0, 2, 3, 1))
        h = convolved((h,), windows(h.shape), self.weights.of("conv_in"))
        found = self._down("down.0", h, fixed)
        return found[-1], [h, *found]

    def deep(self, h: Any, fixed: Fixed) -> Any:
        """See `TwoDepths`."""
        levels = len(self.config.channels)
        skips: list[Array] = []
        for level in range(levels):
            if level > 0:
                skips += self._down(f"down.{level}", h, fixed)
                h = skips[-1]
            if level < levels - 1:
                h = self._resnet(f"down.{level}.resample", h, fixed, DOWN)
                skips.append(h)
        h = self._attended("mid.attention", self._resnet("mid.resnets.0", h, fixed), fixed)
        h = self._resnet("mid.resnets.1", h, fixed)
        for depth in range(levels - 1):
            h = self._up(f"up.{depth}", h, skips, fixed)
            h = self._resnet(f"up.{depth}.resample", h, fixed, UP)
        return h

    def finish(self, h: Any, skips: list[Any], fixed: Fixed) -> Tensor:
        """See `TwoDepths`."""
        h = self._up(f"up.{len(self.config.channels) - 1}", h, skips, fixed)
        layers = self.weights.of("norm_out", "conv_out")
        return to_tensor(_last((h,), windows(h.shape), layers, self.config.groups)).permute(0, 3, 1, 2).contiguous()

    def _down(self, level: str, h: Array, fixed: Fixed) -> list[Array]:
        found = []
        for place in range(self.config.layers):
            h = self._block(level, place, h, fixed)
            found.append(h)
        return found

    def _up(self, level: str, h: Array, skips: list[Array], fixed: Fixed) -> Array:
        for place in range(self.config.layers + 1):
            h = self._block(level, place, ops.cat((h, skips.pop()), -1), fixed)
        return h

    def _block(self, level: str, place: int, h: Array, fixed: Fixed) -> Array:
        h = self._resnet(f"{level}.resnets.{place}", h, fixed)
        name = f"{level}.attentions.{place}"
        return self._attended(name, h, fixed) if name in self._contexts else h

    def _resnet(self, name: str, x: Array, fixed: Fixed, resample: int = SAME) -> Array:
        w = self.weights.at(name)
        b, height, width, c = x.shape
        if resample != SAME:
            height, width = (height // 2, width // 2) if resample == DOWN else (2 * height, 2 * width)
        layers = w.of("norm1", "conv1", "norm2", "conv2")
        seen = windows((b, height, width, c)), windows((b, height, width, layers[2].shape[0]))
        return _resnet((x,), (self.film(name, fixed),), layers, w.of("shortcut"), *seen, self.config.groups, resample)

    def _attended(self, name: str, x: Array, fixed: Fixed) -> Array:
        context: Any = fixed.contexts[self._contexts.index(name)]
        layers = self.weights.at(name).of("norm", "qkv", "out")
        return _attention_block((x,), context, layers, self.config.head_dim, self.config.groups)


def _normed(x: Array, norm: Arrays, groups: int) -> Array:
    """A group norm with its weights, in float32."""
    return group_norm(x, groups, 1e-5) * norm[0] + norm[1]


@compiled
def _resnet(
    given: Arrays,
    film: Arrays,
    layers: Arrays,
    shortcut: Arrays,
    seen: Arrays,
    seen2: Arrays,
    groups: int,
    resample: int,
) -> Array:
    """See `unet2.Resnet`; the shortcut is an empty tuple where it is not there."""
    x = given[0]
    h = ops.silu(_normed(x, layers[0:2], groups)).astype(x.dtype)
    if resample == DOWN:
        h, x = averaged(h), averaged(x)
    if resample == UP:
        h, x = nearest(h), nearest(x)
    h = conv3(h, seen, layers[2], layers[3])
    scale, shift = ops.chunk(film[0], 2, -1)
    h = ops.silu(_normed(h, layers[4:6], groups) * (1 + scale) + shift).astype(x.dtype)
    return projected(x, shortcut) + conv3(h, seen2, layers[6], layers[7])


@compiled
def _attention_block(given: Arrays, context: Arrays, layers: Arrays, head_dim: int, groups: int) -> Array:
    """See `unet2.Attention`; `context` are keys and values."""
    x = given[0]
    b, height, width, c = x.shape
    tokens = _normed(x, layers[0:2], groups).astype(x.dtype).reshape(b, height * width, c)
    q, k, v = ops.chunk(linear(tokens, layers[2], layers[3]), 3, -1)
    heads = c // head_dim
    keys = ops.cat((context[0], heads_of(k, heads)), 2)
    values = ops.cat((context[1], heads_of(v, heads)), 2)
    mixed = attention(heads_of(q, heads), keys, values)
    return x + linear(mixed, layers[4], layers[5]).reshape(b, height, width, c)


@compiled
def _last(given: Arrays, seen: Arrays, layers: Arrays, groups: int) -> Array:
    x = given[0]
    y = ops.silu(_normed(x, layers[0:2], groups)).astype(x.dtype)
    return conv3(y, seen, layers[2], layers[3])
