"""CLIP's towers on MindSpore; see `kandinsky.networks.clip` for what they compute."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import layer_norm, matrix
from kandinsky.backends.mindspore.transformer import blocks, causal
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.generations.lazy_vision import LazyVisionTower
from kandinsky.networks.clip import ClipTextConfig, ClipTextFeatures, ClipVisionConfig


class ClipTextArrays:
    """The text tower over its weights as arrays: ids (B, L) -> ClipTextFeatures, all tensors of torch."""

    def __init__(self, config: ClipTextConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights

    def __call__(self, ids: Tensor) -> ClipTextFeatures:
        """See `ClipText.forward`."""
        w, config = self.weights, self.config
        config.check_length(ids)
        rows, length = ids.shape
        # Tokens see none behind them, and blocks are compiled for each length.
        full = config.positions
        padded = F.pad(ids, (0, full - length)).flatten().int()
        x = ops.gather(w["tokens.weight"], to_array(padded), 0).reshape(rows, full, -1) + w["positions"][:full]
        x = blocks(w, x, causal(full), config.heads, config.activation, config.eps)
        hidden = to_tensor(layer_norm(x, w.of("norm"), config.eps))[:, :length].contiguous()
        pooled = to_array(config.pooled(hidden, ids))
        return ClipTextFeatures(hidden, to_tensor(matrix(pooled, w["projection.weight"])))


@dataclass(frozen=True, eq=False)
class ClipVisionArrays:
    """The vision tower, pixels (B, 3, S, S) -> (B, P), all tensors of torch; its weights are read with the first image.

    The embedding of no image is a constant of the weights. With `nothing`, for large towers, torch computes it once, a
    block at a time, and keeps it in its cache: prompts of text only need no other.
    """

    config: ClipVisionConfig
    read: Callable[[], Weights]
    dtype: torch.dtype
    nothing: LazyVisionTower | None

    @cached_property
    def _weights(self) -> Weights:
        return self.read()

    def bring(self) -> None:
        """Loads the weights, to stay."""
        assert self._weights is not None

    def of_nothing(self) -> Tensor:
        """The embedding (1, P) of an all-zero normalised image."""
        if self.nothing is not None:
            return self.nothing.of_nothing()
        size = self.config.image_size
        return self(torch.zeros(1, 3, size, size, dtype=self.dtype))

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `ClipVision.forward`."""
        w, config = self._weights, self.config
        config.check_pixels(pixels)
        b, side = len(pixels), config.image_size // config.patch
        cut = pixels[:, :, : side * config.patch, : side * config.patch]
        squares = cut.reshape(b, 3, side, config.patch, side, config.patch).permute(0, 2, 4, 3, 5, 1)
        patches = matrix(to_array(squares.reshape(b, side * side, -1)), w["patches.weight"])
        first = ops.tile(w["class_token"].reshape(1, 1, -1), (b, 1, 1))
        x = ops.cat((first, patches), 1) + w["positions"]
        x = blocks(w, layer_norm(x, w.of("norm_in"), config.eps), (), config.heads, config.activation, config.eps)
        read = layer_norm(x[:, 0], w.of("norm_out"), config.eps)
        return to_tensor(matrix(read, w["projection.weight"]))
