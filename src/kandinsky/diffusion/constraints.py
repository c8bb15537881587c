"""What may be known about the clean picture, applied to every prediction."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kandinsky.diffusion.reading import Prediction, eps_of


@dataclass(frozen=True)
class Constraint:
    """A bound on the predicted x0.

    kind "none" changes nothing; "static" clamps to [-limit, limit]; "percentile" clamps each picture to its
    own s = the `ratio` quantile of |x0|, with s between 1 and `max`, and divides by s (dynamic thresholding,
    arXiv 2205.11487, section 2.3). `rederive_eps` says whether the noise is then made consistent with the
    changed x0: families of checkpoints differ in it, and the pictures do too.
    """

    kind: Literal["none", "static", "percentile"] = "none"
    limit: float = 1.0
    ratio: float = 0.995
    max: float = 1.0
    rederive_eps: bool = False

    def apply(self, prediction: Prediction, x: Tensor, abar: float) -> Prediction:
        """Returns `prediction` with x0 inside the bound; `x` is what it was made from, at `abar` < 1."""
        if self.kind == "none":
            return prediction
        if self.kind == "static":
            x0 = prediction.x0.clamp(-self.limit, self.limit)
        else:
            x0 = _threshold(prediction.x0, self.ratio, self.max)
        if self.rederive_eps:
            return replace(prediction, x0=x0, eps=eps_of(x0, x, abar))
        return replace(prediction, x0=x0)


def _threshold(x0: Tensor, ratio: float, largest: float) -> Tensor:
    bound = torch.quantile(x0.abs().flatten(1), ratio, dim=1).clamp(1.0, largest)
    bound = bound.reshape(-1, *[1] * (x0.ndim - 1))
    return torch.clamp(x0, -bound, bound) / bound
