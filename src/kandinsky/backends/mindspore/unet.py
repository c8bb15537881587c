"""What the U-Nets on MindSpore share: the places of their modulations and contexts, and the end of their times."""

from typing import Any

from mindspore import Tensor as Array
from mindspore import ops
from torch import Tensor

from kandinsky.backends.mindspore.layers import linear
from kandinsky.backends.mindspore.weights import Weights, to_array, to_tensor
from kandinsky.networks.deep_cache import denoise
from kandinsky.networks.prepared import Fixed


class UNetArrays:
    """The weights of a U-Net as arrays; `context` is what names of the weights that read conditions end with."""

    def __init__(self, weights: Weights, context: str) -> None:
        self.weights = weights
        self._films = _stems(weights, ".film.weight")
        self._places = {name: place for place, name in enumerate(self._films)}
        self._contexts = _stems(weights, context)
        self.film_width = sum(weights[f"{name}.film.bias"].shape[0] for name in self._films)

    def films_of(self, features: Tensor, pooled: Tensor) -> list[Tensor]:
        """The modulations of all blocks, from sinusoids of the times and the pooled condition."""
        w = self.weights
        hidden = ops.silu(linear(to_array(features.to(pooled.dtype)), *w.of("time_mlp.0")))
        times = to_tensor(linear(hidden, *w.of("time_mlp.2")))
        emb = ops.silu(to_array(times[:, None] + pooled))
        return [to_tensor(linear(emb, *w.of(f"{name}.film"))) for name in self._films]

    def film(self, name: str, fixed: Fixed) -> Array:
        """The modulation of a block in this step."""
        return to_array(fixed.films[self._places[name]][:, None, None])

    def denoise(self: Any, x: Tensor, fixed: Fixed) -> Tensor:
        """The blocks, on latents with their extra channels."""
        return denoise(self, x, fixed)


def _stems(weights: Weights, end: str) -> list[str]:
    return [name.removesuffix(end) for name in weights if name.endswith(end)]
