"""The networks that the loop runs for a facade: through the user's own (perhaps compiled) module, and
steerable."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kandinsky.compat.diffusers.models import native_of
from kandinsky.conditioning.prior_stage import PreparedPrior
from kandinsky.core.errors import RequestError
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.unet3 import UNet3


@dataclass(frozen=True, eq=False)
class SteppedPrior:
    """A prior that has read its texts, each step of which calls the component itself, as in `Steered`."""

    part: Any
    prepared: PreparedPrior

    def step(self, x: Tensor, t: float) -> Tensor:
        """See `Prepared`."""
        predicted: Tensor = self.part(x, prepared=self.prepared.inputs(x, t)[1])
        return predicted


class Steered:
    """A U-Net component as the loop's network.

    Each step calls the component itself, so that what was done to it (torch.compile, hooks) acts. What it
    is told can be changed between steps, under the names that callbacks use.
    """

    KIND: ClassVar[type[nn.Module]] = UNet2

    def __init__(self, part: Any) -> None:
        self.part = part
        self.native: Any = native_of(part, self.KIND)
        self.config = self.native.config

    def prepare(self, condition: Any, times: Sequence[float], deep_at: Collection[float] | None = None) -> Self:
        """See `Network`; RequestError for kept features, since each step calls the whole component."""
        if deep_at is not None:
            raise RequestError(
                "reuse cannot act through the names of diffusers.", "Use kandinsky.load, or leave it out."
            )
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
        with torch.no_grad():
            self.prepare(self._changed(values), self._times)

    def _changed(self, values: Mapping[str, Tensor]) -> Any:
        """The present condition with other tensors in it."""
        embeds = values.get("image_embeds", self._embeds).to(self._embeds)
        if "negative_image_embeds" in values:
            embeds = torch.cat([values["negative_image_embeds"].to(embeds), embeds.chunk(2)[1]])
        extra = self._condition.extra
        if extra is not None:
            parts = [values.get("masked_image", extra[:, :-1]), values.get("mask_image", extra[:, -1:])]
            extra = torch.cat(parts, dim=1).to(extra)
        return replace(self._condition, image_embedding=embeds, extra=extra)

    @property
    def _embeds(self) -> Tensor:
        embedding: Tensor = self._condition.image_embedding
        return embedding

    @property
    def _extra(self) -> Tensor:
        extra: Tensor | None = self._condition.extra
        if extra is None:
            raise RequestError(
                "This U-Net is not told of the mask.", "Load an inpainting checkpoint, or ask for latents only."
            )
        return extra


class SteeredByText(Steered):
    """As `Steered`, for a U-Net that listens to the states of a text."""

    KIND = UNet3

    @property
    def tensors(self) -> Mapping[str, Callable[[], Tensor]]:
        """What the network is told: `prompt_embeds` and `attention_mask` of all rows, the unconditional ones
        first, also alone as `negative_prompt_embeds` and `negative_attention_mask`."""
        return {
            "prompt_embeds": lambda: self._hidden,
            "attention_mask": lambda: self._mask,
            "negative_prompt_embeds": lambda: self._hidden.chunk(2)[0],
            "negative_attention_mask": lambda: self._mask.chunk(2)[0],
        }

    def _changed(self, values: Mapping[str, Tensor]) -> Any:
        whole = {"prompt_embeds": self._hidden, "attention_mask": self._mask}
        for name, present in whole.items():
            told = values.get(name, present).to(present)
            if f"negative_{name}" in values:
                told = torch.cat([values[f"negative_{name}"].to(told), told.chunk(2)[1]])
            whole[name] = told
        return replace(self._condition, hidden=whole["prompt_embeds"], mask=whole["attention_mask"])

    @property
    def _hidden(self) -> Tensor:
        hidden: Tensor = self._condition.hidden
        return hidden

    @property
    def _mask(self) -> Tensor:
        mask: Tensor = self._condition.mask
        return mask
