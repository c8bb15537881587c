"""What may be known about the clean image, applied to every prediction."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kandinsky.diffusion.parametrization import Prediction, eps_of

Paste = Callable[[Tensor], Tensor]
"""Puts what is known of the clean images (B, C, ...) into a prediction of them."""


@dataclass(frozen=True)
class Constraint:
    """One thing that is done to the predicted x0; a schedule holds several, in order.

    kind "static" clamps to [-limit, limit]; "percentile" clamps each image to its own s = the `ratio` quantile of |x0|,
    with s at least 1 and at most `max`, and divides by s (dynamic thresholding, arXiv 2205.11487, section 2.3);
    "replace_known_region" puts the known region of an inpainting into x0, and does nothing for other tasks.
    `rederive_eps` says whether the noise is then made consistent with the changed x0: families of checkpoints differ in
    it, and the images do too.
    """

    kind: Literal["static", "percentile", "replace_known_region"]
    limit: float = 1.0
    ratio: float = 0.995
    max: float = 1.0
    rederive_eps: bool = False

    def apply(self, prediction: Prediction, x: Tensor, abar: float, paste: Paste | None = None) -> Prediction:
        """Returns `prediction` with x0 inside the bound; `x` is what it was made from, at `abar` < 1."""
        if self.kind == "replace_known_region" and paste is None:
            return prediction
        if self.kind == "static":
            x0 = prediction.x0.clamp(-self.limit, self.limit)
        elif self.kind == "percentile":
            x0 = self.thresholded(prediction.x0)
        else:
            assert paste is not None
            x0 = paste(prediction.x0)
        if self.rederive_eps:
            return replace(prediction, x0=x0, eps=eps_of(x0, x, abar))
        return replace(prediction, x0=x0)

    def thresholded(self, x0: Tensor) -> Tensor:
        """The clean images (B, C, ...), each within the bound of its own percentile."""
        bound = torch.quantile(x0.abs().flatten(1), self.ratio, dim=1).clamp(1.0, self.max)
        bound = bound.reshape(-1, *[1] * (x0.ndim - 1))
        return torch.clamp(x0, -bound, bound) / bound
