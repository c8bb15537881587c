"""Samplers: one row each, and a file for each way of stepping."""

from kandinsky.core.errors import RequestError, nearest
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import (
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_ancestral,
    heun,
    plms,
    renoise,
    unipc,
)
from kandinsky.diffusion.samplers.base import Builder, Sampler

SAMPLERS: dict[str, Builder] = {
    "ddim": ddim.build,
    "ddpm": ddpm.build,
    "dpmpp_2m": dpmpp_2m.build,
    "dpmpp_2m_sde": dpmpp_2m.build_noisy,
    "euler": euler.build,
    "euler_ancestral": euler_ancestral.build,
    "heun": heun.build,
    "plms": plms.build,
    "renoise": renoise.build,
    "unipc": unipc.build,
}


def make_sampler(
    name: str, process: Process, *, variance: str = "fixed_small", eta: float | None = None
) -> Sampler:
    """Returns the sampler called `name` for `process`.

    `variance` belongs to the checkpoint: "fixed_small", "learned_range" (of the network, in "ddpm" only) or
    "fixed_small_but_last" (in "ddpm" and "ddim": the last step adds no noise). `eta` in
    [0, 1] is the share of fresh noise; None means the sampler's own. Raises RequestError for an unknown name,
    with the nearest one, and for an eta that could not act.
    """
    build = SAMPLERS.get(name)
    if build is None:
        raise RequestError(f"unknown sampler {name!r}.", nearest(name, SAMPLERS))
    return build(process, variance, eta)
