"""The diffusion prior on MindSpore; see `kandinsky.networks.prior` for what it computes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import layer_norm, linear
from kandinsky.backends.mindspore.transformer import extended
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.film_table import FilmTable
from kandinsky.networks.layers import sinusoid
from kandinsky.networks.prepared import PreparedNetwork
from kandinsky.networks.prior import PriorCondition, PriorConfig, PriorFixed


class PriorArrays:
    """The prior over its weights as arrays; a step takes and gives tensors of torch.

    `query` and the statistics of image embeddings are torch's: by them others know its device and dtype.
    """

    def __init__(self, config: PriorConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights
        self.query, self.clip_mean, self.clip_std = (
            to_tensor(weights[name]) for name in ("query", "clip_mean", "clip_std")
        )

    def prepare(self, condition: PriorCondition, times: Sequence[float]) -> PreparedNetwork[PriorFixed]:
        """See `Prior.prepare`; texts are padded, as masked, to one length, for which the blocks are compiled."""
        condition.check_starts()
        self.config.check_length(condition)
        condition = self._padded(condition)
        x = self._prefix(condition)
        length = x.shape[1]
        mask = self.config.mask(condition.text_mask, torch.float32)
        bias = (to_array(mask[:, :, :length, :length]),)
        past: list[Any] = []
        for place in range(self.config.layers):
            x, k, v = self._extended(place, x, bias, ())
            past.append((k, v))
        table = FilmTable(lambda t, _: [self._time_tokens(t)[:, None]], times, self.query[0], self.config.width)
        fixed_of = partial(PriorFixed, tuple(past), mask[:, :, length:])
        return PreparedNetwork(self, table, fixed_of)  # type: ignore[arg-type]

    def denoise(self, x: Tensor, fixed: PriorFixed) -> Tensor:
        """See `Prior.denoise`."""
        w, limit, rows = self.weights, self.config.tokens, len(x)
        time = to_array(fixed.time_token.expand(rows, -1))[:, None]
        noisy = linear(to_array(x), *w.of("noisy_in"))[:, None]
        query = ops.tile(w["query"], (rows, 1, 1))
        tokens = ops.cat((time, noisy, query), 1) + w["positions"][:, limit + 1 :]
        bias = (to_array(fixed.mask),)
        for place, past in enumerate(fixed.past):
            tokens, _, _ = self._extended(place, tokens, bias, past)
        return to_tensor(linear(layer_norm(tokens[:, -1], w.of("norm")), *w.of("out")))

    def normalise(self, embedding: Tensor) -> Tensor:
        """See `Prior.normalise`."""
        return (embedding - self.clip_mean) / self.clip_std

    def denormalise(self, x: Tensor) -> Tensor:
        """See `Prior.denormalise`."""
        return x * self.clip_std + self.clip_mean

    def _extended(self, place: int, x: Array, bias: Any, past: Any) -> tuple[Array, Array, Array]:
        return extended(self.weights.at("blocks", place), x, bias, past, self.config.heads, "gelu")

    def _padded(self, condition: PriorCondition) -> PriorCondition:
        missing = self.config.tokens - condition.text_hidden.shape[1]
        hidden, mask = F.pad(condition.text_hidden, (0, 0, 0, missing)), F.pad(condition.text_mask, (0, missing))
        return PriorCondition(hidden, condition.text_embedding, mask)

    def _prefix(self, condition: PriorCondition) -> Array:
        w, limit = self.weights, self.config.tokens
        text = linear(to_array(condition.text_hidden), *w.of("text_in")) + w["positions"][:, :limit]
        embedding = linear(to_array(condition.text_embedding), *w.of("embedding_in"))[:, None]
        return ops.cat((text, embedding + w["positions"][:, limit : limit + 1]), 1)

    def _time_tokens(self, t: Tensor) -> Tensor:
        w = self.weights
        times = to_array(sinusoid(t, self.config.width).to(self.query.dtype))
        return to_tensor(linear(ops.silu(linear(times, *w.of("time_mlp.up"))), *w.of("time_mlp.down")))
