"""What every sampler offers, and the small things most of them need."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.rng import Noise
from kandinsky.diffusion.denoiser import Denoiser
from kandinsky.diffusion.parametrization import Prediction
from kandinsky.diffusion.process import Process

# Each sampler has its own immutable state; the loop only hands it back, so its type is its own business.
State = Any


class Sampler(Protocol):
    """One rule for going from x at t to x at t_next.

    x is always the variance-preserving latent of `Process`, so any rule can stand in for any other.
    """

    def init(self, x: Tensor) -> State:
        """Returns the state before the first step from `x`, (B, C, ...)."""
        ...

    def step(
        self, denoise: Denoiser, x: Tensor, t: float, t_next: float, state: State, rng: Noise, final: bool
    ) -> tuple[Tensor, Prediction, State]:
        """Returns x at `t_next` (negative: the end), what the network said about `x`, and the next state."""
        ...


Builder = Callable[[Process, str, float | None], Sampler]


def draw(rng: Noise, x: Tensor) -> Tensor:
    """Returns a standard normal draw shaped like `x`, on its device and in its dtype."""
    return rng.normal(tuple(x.shape)).to(x.device, x.dtype)


BUT_LAST = "fixed_small_but_last"
"""The variance of checkpoints whose last step adds no noise, wherever it ends."""


def refuse_eta(name: str, eta: float | None, fixed: float) -> None:
    """Raises RequestError when `eta` asks for other randomness than sampler `name` has by nature."""
    if eta is not None and eta != fixed:
        raise RequestError(
            f"eta {eta} cannot act in sampler {name!r}, whose eta is {fixed:g}.",
            "Leave eta out, or use 'ddim' or 'euler_ancestral'.",
        )


def check_eta(eta: float) -> float:
    """Returns `eta`, between 0 (no fresh noise) and 1 (the posterior's); raises RequestError outside."""
    if not 0 <= eta <= 1:
        raise RequestError(
            f"eta {eta} is outside [0, 1].", "0 draws no fresh noise, 1 as much as ancestral sampling."
        )
    return eta
