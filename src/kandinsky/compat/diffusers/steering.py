"""The networks that the loop runs for a facade: through the user's own (perhaps compiled) module, and
steerable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kandinsky.compat.diffusers.parts import native_of
from kandinsky.core.errors import RequestError
from kandinsky.networks.prior import PreparedPrior
from kandinsky.networks.unet2 import UNet2, UNet2Condition


@dataclass(frozen=True, eq=False)
class SteppedPrior:
    """A prior that has read its texts, each step of which calls the component itself, as in `Steered`."""

    part: Any
    prepared: PreparedPrior

    def step(self, x: Tensor, t: float) -> Tensor:
        """See `Prepared`."""
        predicted: Tensor = self.part(x, prepared=self.prepared.fixed(x, t))
        return predicted


class Steered:
    """A U-Net component as the loop's network.

    Each step calls the component itself, so that what was done to it (torch.compile, hooks) acts. What it
    is told can be changed between steps, under the names that callbacks use.
    """

    def __init__(self, part: Any) -> None:
        self.part = part
        self.native: UNet2 = native_of(part, UNet2)
        self.config = self.native.config

    def prepare(self, condition: UNet2Condition, times: Sequence[float]) -> "Steered":
        """See `Network`."""
        self._condition, self._times = condition, times
        self._prepared = self.native.prepare(condition, times)
        return self

    def step(self, x: Tensor, t: float) -> Tensor:
        """See `Prepared`."""
        inputs, fixed = self._prepared.inputs(x, t)
        predicted: Tensor = self.part(inputs, prepared=fixed)
        return predicted

    @property
    def tensors(self) -> Mapping[str, Callable[[], Tensor]]:
        """What the network is told: `image_embeds` of all rows, the unconditional ones first, also alone as
        `negative_image_embeds`; of an inpainting network also `masked_image` and `mask_image` (1 = known)."""
        return {
            "image_embeds": lambda: self._embeds,
            "negative_image_embeds": lambda: self._embeds.chunk(2)[0],
            "masked_image": lambda: self._extra[:, :-1],
            "mask_image": lambda: self._extra[:, -1:],
        }

    def change(self, values: Mapping[str, Tensor]) -> None:
        """Puts other tensors of the same shapes in place of `tensors`; raises RequestError for other
        shapes."""
        for name, value in values.items():
            wanted = self.tensors[name]()
            if value.shape != wanted.shape:
                raise RequestError(
                    f"A callback returned {name} of shape {tuple(value.shape)}, not {tuple(wanted.shape)}.",
                    "Change numbers, and keep the unconditional rows in front of the others.",
                )
        embeds = values.get("image_embeds", self._embeds).to(self._embeds)
        if "negative_image_embeds" in values:
            embeds = torch.cat([values["negative_image_embeds"].to(embeds), embeds.chunk(2)[1]])
        extra = self._condition.extra
        if extra is not None:
            parts = [values.get("masked_image", extra[:, :-1]), values.get("mask_image", extra[:, -1:])]
            extra = torch.cat(parts, dim=1).to(extra)
        with torch.no_grad():
            self.prepare(replace(self._condition, image_embedding=embeds, extra=extra), self._times)

    @property
    def _embeds(self) -> Tensor:
        embedding = self._condition.image_embedding
        assert embedding is not None  # every network of a facade listens to one
        return embedding

    @property
    def _extra(self) -> Tensor:
        if self._condition.extra is None:
            raise RequestError(
                "This U-Net is not told of the mask.",
                "Load an inpainting checkpoint, or ask for latents only.",
            )
        return self._condition.extra
