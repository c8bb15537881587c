"""Other frameworks that run the networks: whether they are there, and models that run on them."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
from torch import nn

from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.core.errors import RequestError, nearest
from kandinsky.generations.model import Model

Backend = Literal["mindspore"]
BACKENDS: tuple[Backend, ...] = ("mindspore",)
INSTALL = "pip install 'kandinsky-diffusion[mindspore]' (mindspore==2.10.0, numpy<2), in an environment of its own."
Host = Callable[[Model, Mapping[nn.Module, LazyWeights]], Model]
"""A model whose weights are in their files, and where those are, to the model that runs on a backend."""


def lacking(backend: str) -> str | None:
    """Why this installation cannot use a backend, None where it can; the backend itself is not imported."""
    try:
        version(backend)
    except PackageNotFoundError:
        return f"{backend} is not installed"
    if int(version("numpy").split(".")[0]) >= 2:
        return f"{backend} was compiled for NumPy 1, and NumPy {version('numpy')} is installed"
    return None


def check_backend(backend: str | None) -> None:
    """Raises RequestError for an unknown backend, and for one that this installation cannot use."""
    if backend is None:
        return
    if backend not in BACKENDS:
        raise RequestError(f"There is no backend {backend!r}.", nearest(backend, BACKENDS))
    if (reason := lacking(backend)) is not None:
        raise RequestError(f"{reason[0].upper()}{reason[1:]}.", INSTALL)


def place_on(backend: str, device: object, dtype: object) -> tuple[torch.device, torch.dtype]:
    """Where torch computes beside a backend, and in which dtype both do; chooses the backend's own device.

    Raises RequestError for what `check_backend` refuses, and for a device or a dtype that the backend has not.
    """
    check_backend(backend)
    chosen: tuple[torch.device, torch.dtype] = import_module(f"{__name__}.{backend}").place(device, dtype)
    return chosen


def hosted(backend: str, model: Model, stored: Mapping[nn.Module, LazyWeights]) -> Model:
    """A model that was just loaded, its weights in their files, as it runs on a backend; RequestError for one whose
    networks the backend has not."""
    host: Host = partial(import_module(f"{__name__}.{backend}").hosted)
    return host(model, stored)
