"""Denoising networks run through torch.compile, which is done before the first picture and not during it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.text_image import TextImageConditioner
from kandinsky.core.errors import RequestError
from kandinsky.core.prompts import Embedding
from kandinsky.core.requests import Request
from kandinsky.core.system import COMPILERS, compiler
from kandinsky.generations.model import Model, Prepared
from kandinsky.networks.unet2 import PreparedUNet2, UNet2
from kandinsky.networks.unet3 import PreparedUNet3, UNet3

_PREPARED: dict[type, Callable[..., Any]] = {UNet2: PreparedUNet2, UNet3: PreparedUNet3}


def compiled(model: Model) -> Model:
    """The same model, whose denoising network is compiled when it first runs, and again for other sizes.

    Raises RequestError on a CPU where there is no compiler for it.
    """
    if model.device.type == "cpu" and compiler() is None:
        raise RequestError(
            f"compile is given, but none of {', '.join(COMPILERS)} is here.",
            "Install a C++ compiler, or leave compile out.",
        )
    assert isinstance(model.network, UNet2 | UNet3)
    return replace(model, network=CompiledNetwork(model.network, torch.compile(model.network.denoise)))


@dataclass(frozen=True, eq=False)
class CompiledNetwork:
    """A network whose steps are `run`, its `denoise` compiled; steps that reuse deep features are its own."""

    network: UNet2 | UNet3
    run: Callable[..., Tensor]

    @property
    def config(self) -> Any:
        """The network's."""
        return self.network.config

    def prepare(
        self, condition: Any, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> Prepared:
        """See `Network`."""
        if deep_at is not None:
            return self.network.prepare(condition, times, deep_at)
        # Compiled code lays weights out in its own way: they are not packed for it.
        prepared: Prepared = _PREPARED[type(self.network)](self.network, condition, times, None, self.run)
        return prepared


def warming_request(model: Model, **fields: Any) -> Request:
    """A request that takes a model once through all it does for a picture of that size and count.

    `fields` are those of a request, of which width, height, count and guidance matter here.
    """
    grey = np.full((64, 64, 3), 128, np.uint8)
    needed: dict[str, Any] = {"steps": 1, "seed": 0, "prior_steps": 1 if "prior" in model.modules else None}
    if model.hints:
        needed["hint"] = grey
    if model.extra_channels:
        needed |= {"image": grey, "mask": np.ones((64, 64), bool)}
    own = model.conditioner
    image = own.image if isinstance(own, TextImageConditioner) else own
    prompt: str | Embedding = "a picture"
    if isinstance(image, ImagePromptConditioner) and image.stage is None:
        prompt = Embedding([0.0] * image.width, [0.0] * image.width)
    return Request(prompt, **(needed | fields))
