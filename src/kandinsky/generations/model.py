"""A generation as a value: its parts, diffusion settings and published defaults."""

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
    """Images <-> latents, scale factors included; a codec with a posterior samples it by `rng`, and gives its mean
    without."""

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
    """A denoising network: `prepare` computes once what the steps at `times` share; with `deep_at` deep features are
    computed at those times only, and reused at the others.

    `config.in_channels` may exceed the latents': the rest are an inpainting network's known latents and mask. Height
    and width of latents are multiples of `config.multiple`.
    """

    @property
    def config(self) -> Any: ...

    def prepare(self, condition: Any, times: Sequence[float], deep_at: Collection[float] | None = None) -> Prepared: ...


TellsRegion = Literal["masked_latents", "masked_image"]
"""The region condition of an inpainting network: the image's latents, zero outside an eroded mask, and that mask; or a
mask, and the latents of the image made grey elsewhere."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint.

    `schedule` is that of its own sampler, `schedules` those of samplers that were published with other settings.
    `modules` names every nn.Module with weights; `defaults` are request fields; `hints` is whether a hint image is
    needed; `tells_region` is the region condition of an inpainting network; `guidance_offset` is the difference of its
    published guidance scale from that of `combine`; `dtype` is the networks', `working_dtype` that of noise, latents
    and sampler. Width and height are rounded up to `multiple` pixels, and cropped back; `extra_channels` are those of
    an inpainting network behind the latents.
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
        """The settings of a sampler, None being the checkpoint's own; `steps` matters where the process is made for
        their number."""
        found = self.schedule if sampler is None else self.schedules.get(sampler, self.schedule)
        return found if steps is None else found.taken(steps)

    def guidance(self, scale: float | None) -> float | None:
        """A request's guidance scale as `combine` has it, where 1 is unguided."""
        return None if scale is None else scale + self.guidance_offset
