"""The MoVQ on MindSpore; see `kandinsky.networks.autoencoder` for what it computes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import (
    Arrays,
    attention,
    compiled,
    conv3,
    convolved,
    group_norm,
    linear,
    nearest,
    projected,
    windows,
)
from kandinsky.backends.mindspore.weights import DTYPES, Weights, to_array, to_tensor
from kandinsky.codecs.autoencoder_codec import LinearColours
from kandinsky.core.rng import Noise
from kandinsky.networks.movq import DECODER_GROUPS, MoVQConfig


@dataclass(frozen=True, eq=False)
class MoVQCodec:
    """The codec over the weights of a MoVQ as arrays; it takes and gives tensors of torch, and codes whole images."""

    config: MoVQConfig
    weights: Weights

    @property
    def downscale(self) -> int:
        """See `Codec`."""
        return self.config.downscale

    @property
    def channels(self) -> int:
        """See `Codec`."""
        return self.config.codebook_dim

    @cached_property
    def _dtype(self) -> torch.dtype:
        kind = self.weights["quant_conv.weight"].dtype
        return next(ours for ours, theirs in DTYPES.items() if theirs == kind)

    @torch.no_grad()
    def encode(self, images: Tensor, rng: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) in the images' dtype; nothing is drawn."""
        w, groups = self.weights.at("encoder"), self.config.groups
        x = self._given(images)
        x = convolved((x,), windows(x.shape), w.of("conv_in"))
        for place in range(w.count("down")):
            level = w.at("down", place)
            x = _level(level, x, (), groups)
            if level.has("resample"):
                x = convolved((x,), windows(x.shape, 2), level.of("resample.conv"), 2)
        x = _middle(w.at("mid"), x, (), groups)
        x = _last((x,), (), windows(x.shape), w.of("norm_out.norm"), (), w.of("conv_out"), groups)
        return self._answer(linear(x, *self.weights.of("quant_conv"))).to(images.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, h * f, w * f), about [-1, 1] but not clamped."""
        w, groups, z = self.weights.at("decoder"), DECODER_GROUPS, self._given(latents)
        x = linear(z, *self.weights.of("post_quant_conv"))
        x = convolved((x,), windows(x.shape), w.of("conv_in"))
        x = _middle(w.at("mid"), x, (z,), groups)
        for place in range(w.count("up")):
            level = w.at("up", place)
            x = _level(level, x, (z,), groups)
            if level.has("resample"):
                b, height, width, c = x.shape
                x = _doubled((x,), windows((b, 2 * height, 2 * width, c)), level.of("resample.conv"))
        norm, modulation = w.of("norm_out.norm"), w.of("norm_out.modulation")
        x = _last((x,), (z,), windows(x.shape), norm, modulation, w.of("conv_out"), groups)
        return self._answer(x).to(latents.dtype)

    def preview(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to small images (B, 3, h, w) in [-1, 1] by one matrix, without decoding."""
        return self._colours(latents)

    @cached_property
    def _colours(self) -> LinearColours:
        return LinearColours.fit(self.encode, self.downscale, torch.device("cpu"))

    def _given(self, images: Tensor) -> Array:
        return to_array(images.to(self._dtype).permute(0, 2, 3, 1))

    def _answer(self, x: Array) -> Tensor:
        return to_tensor(x).permute(0, 3, 1, 2).contiguous()


def _middle(w: Weights, x: Array, latents: Arrays, groups: int) -> Array:
    x = _resnet(w.at("resnets.0"), x, latents, groups)
    return _resnet(w.at("resnets.1"), _attended(w.at("attention"), x, latents, groups), latents, groups)


def _level(w: Weights, x: Array, latents: Arrays, groups: int) -> Array:
    for place in range(w.count("resnets")):
        x = _resnet(w.at("resnets", place), x, latents, groups)
        if w.has("attentions"):
            x = _attended(w.at("attentions", place), x, latents, groups)
    return x


def _resnet(w: Weights, x: Array, latents: Arrays, groups: int) -> Array:
    layers = w.of("norm1.norm", "conv1", "norm2.norm", "conv2")
    modulations = w.of("norm1.modulation", "norm2.modulation")
    size = (*x.shape[:3], w["conv2.weight"].shape[1] // 9)
    seen = windows(x.shape), windows(size)
    return _residual((x,), latents, *seen, layers, modulations, w.of("shortcut"), groups)


def _attended(w: Weights, x: Array, latents: Arrays, groups: int) -> Array:
    return _attention_block((x,), latents, w.of("norm.norm"), w.of("norm.modulation"), w.of("qkv", "out"), groups)


def _normed(x: Array, latents: Arrays, norm: Arrays, modulation: Arrays, groups: int) -> Array:
    """See `autoencoder.Norm`."""
    y = group_norm(x, groups, 1e-6) * norm[0] + norm[1]
    if len(modulation) > 0:
        b, height, width, c = x.shape
        _, high, wide, _ = latents[0].shape
        moved = linear(latents[0], modulation[0], modulation[1]).reshape(b, high, 1, wide, 1, 2 * c)
        scale, shift = ops.chunk(moved, 2, -1)
        y = y.reshape(b, high, height // high, wide, width // wide, c) * scale + shift
        y = y.reshape(b, height, width, c)
    return y.astype(x.dtype)


@compiled
def _doubled(x: Arrays, seen: Arrays, layer: Arrays) -> Array:
    return conv3(nearest(x[0]), seen, layer[0], layer[1])


@compiled
def _residual(
    given: Arrays,
    latents: Arrays,
    seen: Arrays,
    seen2: Arrays,
    layers: Arrays,
    modulations: Arrays,
    shortcut: Arrays,
    groups: int,
) -> Array:
    """See `autoencoder.Resnet`; layers that are not there are empty tuples."""
    x = given[0]
    h = _normed(x, latents, layers[0:2], modulations[0:2], groups)
    h = conv3(ops.silu(h), seen, layers[2], layers[3])
    h = _normed(h, latents, layers[4:6], modulations[2:4], groups)
    h = conv3(ops.silu(h), seen2, layers[6], layers[7])
    return projected(x, shortcut) + h


@compiled
def _attention_block(
    given: Arrays, latents: Arrays, norm: Arrays, modulation: Arrays, layers: Arrays, groups: int
) -> Array:
    """See `autoencoder.Attention`."""
    x = given[0]
    b, height, width, c = x.shape
    tokens = linear(_normed(x, latents, norm, modulation, groups), layers[0], layers[1]).reshape(b, 1, -1, 3 * c)
    q, k, v = ops.chunk(tokens, 3, -1)
    return x + linear(attention(q, k, v), layers[2], layers[3]).reshape(b, height, width, c)


@compiled
def _last(
    given: Arrays, latents: Arrays, seen: Arrays, norm: Arrays, modulation: Arrays, layer: Arrays, groups: int
) -> Array:
    y = _normed(given[0], latents, norm, modulation, groups)
    return conv3(ops.silu(y), seen, layer[0], layer[1])
