"""Denoising networks run through torch.compile, which is done before the first image and not during it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kandinsky.core.errors import RequestError
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.core.system import COMPILERS, compiler
from kandinsky.engine.acceleration.networks import HostedNetwork, accelerated, laid_out, recorded, unet_of
from kandinsky.generations.model import Model, Prepared
from kandinsky.networks.prepared import Fixed, PreparedNetwork

Denoise = Callable[[Tensor, Fixed], Tensor]


def compiled(model: Model) -> Model:
    """The same model, whose denoising network is compiled when it first runs, and again for other sizes.

    Raises RequestError on a CPU where there is no compiler for it.
    """
    if model.device.type == "cpu" and compiler() is None:
        raise RequestError(
            f"compile is given, but none of {', '.join(COMPILERS)} is here.",
            "Install a C++ compiler, or leave compile out.",
        )
    network = unet_of(model)
    return replace(model, network=HostedNetwork(network, partial(_compiled, torch.compile(network.denoise))))


def _compiled(denoise: Denoise, prepared: PreparedNetwork[Fixed], steps: int) -> Prepared:
    """A prepared network that runs `denoise`; steps that reuse deep features are the network's own."""
    if prepared.deep is not None:
        return accelerated(prepared, steps)
    # Compiled code lays weights out in its own way: they are not packed for it.
    return recorded(replace(laid_out(prepared), run=partial(_run, denoise, prepared.fixed_of)), steps)


def _run(denoise: Denoise, fixed_of: Callable[[Tensor], Fixed], x: Tensor, row: Tensor) -> Tensor:
    return denoise(x, fixed_of(row))


def warming_request(model: Model, **fields: Any) -> Request:
    """A request that takes a model once through all it does for an image of that size and count.

    `fields` are those of a request, of which width, height, count and guidance matter here.
    """
    grey = np.full((64, 64, 3), 128, np.uint8)
    needed: dict[str, Any] = {"steps": 1, "seed": 0, "prior_steps": 1 if "prior" in model.modules else None}
    if model.hints:
        needed["hint"] = grey
    if model.extra_channels:
        needed |= {"image": grey, "mask": np.ones((64, 64), bool)}
    request = Request("an image", **(needed | fields))
    try:
        model.conditioner.check(request, guided=False)
    except RequestError:
        # A decoder without its prior takes embeddings only.
        nothing = [0.0] * model.network.config.image_dim
        request = Request(Embedding(nothing, nothing), **(needed | fields))
    return request
