"""Samplers by their names: a function that makes each, and the shares of fresh noise that it knows."""

from collections.abc import Callable
from dataclasses import dataclass

from kandinsky.core.errors import RequestError, nearest
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers.base import Sampler
from kandinsky.diffusion.samplers.ddim import ddim
from kandinsky.diffusion.samplers.ddpm import ddpm, renoise
from kandinsky.diffusion.samplers.dpmpp_2m import dpmpp_2m
from kandinsky.diffusion.samplers.euler import euler, euler_ancestral, heun
from kandinsky.diffusion.samplers.plms import plms
from kandinsky.diffusion.samplers.unipc import unipc


@dataclass(frozen=True)
class Kind:
    """`make(process, variance, eta)` gives the sampler; `eta` is its own, and the only one unless `free`."""

    make: Callable[[Process, str, float], Sampler]
    eta: float = 0.0
    free: bool = False


SAMPLERS: dict[str, Kind] = {
    "ddim": Kind(ddim, 0.0, free=True),
    "ddpm": Kind(ddpm, 1.0),
    "dpmpp_2m": Kind(dpmpp_2m),
    "dpmpp_2m_sde": Kind(dpmpp_2m, 1.0),
    "euler": Kind(euler),
    "euler_ancestral": Kind(euler_ancestral, 1.0, free=True),
    "heun": Kind(heun),
    "plms": Kind(plms),
    "renoise": Kind(renoise, 1.0),
    "unipc": Kind(unipc),
}


def make_sampler(name: str, process: Process, *, variance: str = "fixed_small", eta: float | None = None) -> Sampler:
    """Returns the sampler called `name` for `process`.

    `variance` is the checkpoint's: "fixed_small", "learned_range" (in "ddpm" only), "fixed_small_but_last"
    (the last step adds no noise). `eta` in [0, 1] is the share of fresh noise, None the sampler's own. Raises
    RequestError for an unknown name, with the nearest one, and for an eta that could not act.
    """
    kind = SAMPLERS.get(name)
    if kind is None:
        raise RequestError(f"unknown sampler {name!r}.", nearest(name, SAMPLERS))
    chosen = kind.eta if eta is None else eta
    if not kind.free and chosen != kind.eta:
        raise RequestError(
            f"eta {eta} cannot act in sampler {name!r}, whose eta is {kind.eta:g}.",
            "Leave eta out, or use 'ddim' or 'euler_ancestral'.",
        )
    if not 0 <= chosen <= 1:
        raise RequestError(f"eta {eta} is outside [0, 1].", "0 draws no fresh noise, 1 as much as ancestral sampling.")
    return kind.make(process, variance, chosen)
