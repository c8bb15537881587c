"""A generation is a value: its parts, its diffusion settings, its published defaults."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from kandinsky.conditioning.conditions import Conditioner
from kandinsky.core.rng import Rng
from kandinsky.diffusion.process import working_dtype
from kandinsky.diffusion.schedule import Schedule


class Codec(Protocol):
    """Images <-> latents; the only home of scale factors.

    A codec with a posterior draws from it by `rng`, and gives its mean without one.
    """

    @property
    def downscale(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def preview(self, latents: Tensor) -> Tensor: ...


class Prepared(Protocol):
    """A network closed over its conditions."""

    def step(self, x: Tensor, t: float) -> Tensor: ...


class Network(Protocol):
    """A denoising network: `prepare` does once what the steps at `times` share.

    With `deep_at` its deep features are computed at those times, and used again at the others.

    `config.in_channels` may exceed the latents': the rest is an inpainting network's known latents and mask.
    `config.multiple` is what height and width of the latents must be multiples of.
    """

    @property
    def config(self) -> Any: ...

    def prepare(self, condition: Any, times: Sequence[float], deep_at: Collection[float] | None = None) -> Prepared: ...


TellsRegion = Literal["masked_latents", "masked_image"]
"""How an inpainting network is told of the known region: by the image's latents, zero outside an eroded
mask, and that mask; or by a mask, and the latents of the image made grey elsewhere."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint.

    `schedule` is the one of its own sampler, `schedules` are those of samplers that its publishers ran with
    other settings. `modules` names every nn.Module that holds weights (for placement); `defaults` are request
    fields; `hints` says whether a hint image is needed; `tells_region` what an inpainting network was
    trained on; `guidance_offset` is what its publishers' guidance scale lacks of the one in `combine`;
    `dtype` is what the networks compute in, `working_dtype` what noise, latents and the sampler are in. Width
    and height are rounded up to `multiple` pixels inside, and cropped back; `extra_channels` are those that
    the network of an inpainting checkpoint wants behind the latents.
    """

    name: str
    conditioner: Conditioner
    network: Network
    codec: Codec
    schedule: Schedule
    defaults: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    hints: bool = False
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    tells_region: TellsRegion = "masked_latents"
    guidance_offset: float = 0.0
    working_dtype: torch.dtype = field(init=False)
    multiple: int = field(init=False)
    extra_channels: int = field(init=False)

    def __post_init__(self) -> None:
        config, latents = self.network.config, self.codec.channels
        object.__setattr__(self, "working_dtype", working_dtype(self.dtype))
        object.__setattr__(self, "multiple", int(self.codec.downscale * config.multiple))
        hinted = latents if self.hints else 0
        object.__setattr__(self, "extra_channels", int(config.in_channels - latents - hinted))

    def schedule_of(self, sampler: str | None, steps: int | None = None) -> Schedule:
        """The settings that the sampler of that name runs with; None is the checkpoint's own.

        `steps` matters where the process is made for their number, and is left out to look at the rest.
        """
        found = self.schedule if sampler is None else self.schedules.get(sampler, self.schedule)
        return found if steps is None else found.taken(steps)

    def guidance(self, scale: float | None) -> float | None:
        """A request's guidance scale as `combine` has it, where 1 is unguided."""
        return None if scale is None else scale + self.guidance_offset
