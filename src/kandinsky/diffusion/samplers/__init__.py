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
        raise RequestError(f"unknown sampler {name!r}.", sampler_hint(name))
    if eta is not None and (eta != kind.eta or not kind.free):
        check_eta(name, kind, eta)
    return kind.make(process, variance, kind.eta if eta is None else eta)


def check_eta(name: str, kind: Kind, eta: float) -> None:
    """Raises RequestError for an eta that a sampler has no use for."""
    if not kind.free and eta != kind.eta:
        raise RequestError(
            f"eta {eta} cannot act in sampler {name!r}, whose eta is {kind.eta:g}.",
            "Leave eta out, or use 'ddim' or 'euler_ancestral'.",
        )
    if not 0 <= eta <= 1:
        raise RequestError(f"eta {eta} is outside [0, 1].", "0 draws no fresh noise, 1 as much as ancestral sampling.")


ELSEWHERE = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "p": "ddpm",
    "psampler": "ddpm",
    "dpmpp2m": "dpmpp_2m",
    "dpm2m": "dpmpp_2m",
    "dpmsolver": "dpmpp_2m",
    "dpmsolver2m": "dpmpp_2m",
    "dpmsolverpp": "dpmpp_2m",
    "dpmsolverpp2m": "dpmpp_2m",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmpp": "dpmpp_2m",
    "dpmpp2msde": "dpmpp_2m_sde",
    "dpmpp2msdegpu": "dpmpp_2m_sde",
    "dpmppsde": "dpmpp_2m_sde",
    "sdedpmsolverpp": "dpmpp_2m_sde",
    "euler": "euler",
    "eulerdiscrete": "euler",
    "eulera": "euler_ancestral",
    "eulerancestral": "euler_ancestral",
    "eulerancestraldiscrete": "euler_ancestral",
    "heun": "heun",
    "heundiscrete": "heun",
    "plms": "plms",
    "pndm": "plms",
    "lms": "plms",
    "unipc": "unipc",
    "unipcmultistep": "unipc",
    "unipcbh2": "unipc",
}
"""What other tools call the samplers, without spaces and marks."""


def sampler_called(name: str) -> str | None:
    """Our name of a sampler as Stable Diffusion interfaces, ComfyUI, diffusers or the original code call it.

    Their schedules of noise levels (Karras, exponential) are not part of it. None for one that is not here.
    """
    plain = name.lower().replace("++", "pp").replace("+", "p").replace("β", "")
    plain = "".join(letter for letter in plain if letter.isalnum()).removeprefix("k" if plain.startswith("k_") else "")
    for ending in ("scheduler", "sampler", "karras", "exponential", "automatic", "trailing"):
        plain = plain.removesuffix(ending)
    return ELSEWHERE.get(plain)


def sampler_hint(name: str) -> str:
    """What to write instead of an unknown sampler."""
    if (ours := sampler_called(name)) is not None:
        known = ", ".join(sorted(SAMPLERS))
        return f"It is called {ours!r} here. Known: {known}."
    return nearest(name, SAMPLERS)
