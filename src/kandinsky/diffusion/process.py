"""The forward process: how much of the image is left at each time, and what follows from it."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import RequestError


@dataclass(frozen=True, eq=False)
class Process:
    """The process x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise (arXiv 2006.11239, eq. 4).

    `betas` and `alpha_bar` are (T,) tables on the CPU, alpha_bar strictly between 0 and 1 and falling; they
    are float32 or float64, as in the code that the weights were published with. `final_alpha_bar` in (0, 1]
    is the value at every negative time, that is after the last step: 1 where a sampler ends on a clean
    image, the first table entry where a checkpoint asks to stop there.
    """

    betas: Tensor
    alpha_bar: Tensor
    final_alpha_bar: float = 1.0

    @classmethod
    def from_betas(cls, betas: Tensor, final_alpha_bar: float = 1.0, dtype: torch.dtype = torch.float32) -> "Process":
        """Builds the process of a (T,) table of betas in (0, 1); the product is taken in `dtype`."""
        table = betas.detach().to("cpu", dtype)
        return cls(table, torch.cumprod(1.0 - table, dim=0), final_alpha_bar)

    @classmethod
    def linear(cls, start: float, end: float, steps: int = 1000, dtype: torch.dtype = torch.float32) -> "Process":
        """Betas that grow linearly from `start` to `end` over `steps` times (arXiv 2006.11239, section 4)."""
        return cls.from_betas(torch.linspace(start, end, steps, dtype=dtype), dtype=dtype)

    @classmethod
    def squared_cosine(cls, steps: int = 1000, dtype: torch.dtype = torch.float32) -> "Process":
        """Betas whose alpha_bar follows a squared cosine, each at most 0.999 (arXiv 2102.09672, eq. 17)."""

        def remaining(fraction: float) -> float:
            return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - remaining((i + 1) / steps) / remaining(i / steps), 0.999) for i in range(steps)]
        return cls.from_betas(torch.tensor(betas, dtype=dtype), dtype=dtype)

    def ending_at_the_first(self) -> "Process":
        """The same process, whose end is its first time's alpha_bar and no clean image."""
        return Process(self.betas, self.alpha_bar, self._alpha_bar_values[0])

    def spread(self, stride: int) -> "Process":
        """The same process, whose times 0, 1, 2, ... are called 0, `stride`, 2 x `stride`, ...

        What lies between them is interpolated as in `alpha_bar_at`.
        """
        if stride == 1:
            return self
        last = (self.T - 1) * stride
        values = [self.alpha_bar_at(t / stride) for t in range(last + 1)]
        alpha_bar = torch.tensor(values, dtype=self.alpha_bar.dtype)
        betas = torch.cat([self.betas[:1], 1.0 - alpha_bar[1:] / alpha_bar[:-1]])
        return Process(betas, alpha_bar, self.final_alpha_bar)

    @property
    def T(self) -> int:  # noqa: N802  (the name of the count in every paper)
        """The number of times in the table; times are 0 .. T - 1."""
        return int(self.betas.shape[0])

    @cached_property
    def _alpha_bar_values(self) -> tuple[float, ...]:
        # Read once as python floats: looking a coefficient up must never wait for a device.
        return tuple(self.alpha_bar.tolist())

    @cached_property
    def _beta_values(self) -> tuple[float, ...]:
        return tuple(self.betas.tolist())

    def alpha_bar_at(self, t: float) -> float:
        """Returns alpha_bar at time `t`: `final_alpha_bar` below 0, the table at whole times.

        Between two whole times the log signal-to-noise ratio is interpolated linearly, which keeps alpha_bar
        strictly falling. Raises RequestError above T - 1.
        """
        if t < 0:
            return self.final_alpha_bar
        if not t <= self.T - 1:
            raise RequestError(f"time {t} is outside the process.", f"Times go from 0 to {self.T - 1}.")
        below = int(t)
        part = t - below
        if part == 0:
            return self._alpha_bar_values[below]
        low, high = (_log_snr(self._alpha_bar_values[k]) for k in (below, below + 1))
        return 1.0 / (1.0 + math.exp(-(low + part * (high - low))))

    def beta_between(self, t: float, t_next: float) -> float:
        """Returns the noise 1 - alpha_bar_t / alpha_bar_next that one step from `t_next` up to `t` adds.

        For neighbours, a clean end after time 0 among them, it is the table's own beta. Elsewhere it is rounded as the
        tables are: towards pure noise 1 - beta is as small as float32's rounding, and published results have it.
        """
        neighbours = t_next == t - 1 and t == int(t)
        if neighbours and (t_next >= 0 or self.final_alpha_bar == 1.0):
            return self._beta_values[int(t)]
        kept = self.alpha_bar_at(t) / self.alpha_bar_at(t_next)
        if self.alpha_bar.dtype == torch.float64:
            return 1.0 - kept
        return float(np.float32(1.0) - np.float32(kept))

    def sigma_at(self, t: float) -> float:
        """Returns the noise-to-signal ratio sqrt((1 - alpha_bar) / alpha_bar), sigma in arXiv 2206.00364."""
        alpha_bar = self.alpha_bar_at(t)
        return math.sqrt((1.0 - alpha_bar) / alpha_bar)

    def half_log_snr_at(self, t: float) -> float:
        """Returns log(sqrt(alpha_bar / (1 - alpha_bar))), lambda in arXiv 2206.00927; inf without noise."""
        return 0.5 * _log_snr(self.alpha_bar_at(t))

    def add_noise(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """Returns x_t for clean `x0` and `noise`, both (B, ...), in their dtype.

        `t` is one time for the batch (negative: the end) or a (B,) integer tensor of times in 0 .. T - 1.
        """
        signal, spread = self._coefficients(x0, t)
        return signal * x0 + spread * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """Returns v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0; arguments as in `add_noise`.

        Source: arXiv 2202.00512, appendix D.
        """
        signal, spread = self._coefficients(x0, t)
        return signal * noise - spread * x0

    def _coefficients(self, x0: Tensor, t: float | Tensor) -> tuple[Tensor | float, Tensor | float]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), ready to multiply a tensor shaped like `x0`."""
        if isinstance(t, Tensor):
            # The roots are taken before the cast: in half precision 1 - alpha_bar would lose the small times.
            alpha_bar = self.alpha_bar.to(t.device)[t.flatten()].reshape(-1, *[1] * (x0.ndim - 1)).to(x0.device)
            return alpha_bar.sqrt().to(x0.dtype), (1.0 - alpha_bar).sqrt().to(x0.dtype)
        alpha_bar_t = self.alpha_bar_at(t)
        return math.sqrt(alpha_bar_t), math.sqrt(1.0 - alpha_bar_t)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns what sampler arithmetic is done in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_working_precision(x: Tensor) -> Tensor:
    """Returns `x` in the dtype of sampler arithmetic."""
    return x.to(working_dtype(x.dtype))


def _log_snr(alpha_bar: float) -> float:
    return math.inf if alpha_bar >= 1.0 else math.log(alpha_bar / (1.0 - alpha_bar))
