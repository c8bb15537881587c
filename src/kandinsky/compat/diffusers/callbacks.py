"""One call of a pipeline: its state, its progress bar, the caller's callbacks, and what these change."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from kandinsky.compat.diffusers.inputs import counted, scaled
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.events import Warned
from kandinsky.diffusion.loop import Step

if TYPE_CHECKING:
    from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
    from kandinsky.compat.diffusers.step_networks import ComponentNetwork

LATENTS = ["latents"]
"""What callbacks are told of unless they ask for more."""


@dataclass
class Call:
    """What callbacks may read and set while a call runs; `offset` is what the scale lacks of the one in `combine`."""

    guidance_scale: object = 0.0
    offset: float = 0.0
    times: Sequence[float] = field(default_factory=list)
    num_timesteps: int = 0
    interrupt: bool = False

    @property
    def scale(self) -> float:
        """The present guidance scale, where 1 is unguided."""
        return scaled(self.guidance_scale) + self.offset


@dataclass(frozen=True, eq=False)
class Callbacks:
    """What a caller wants to be told after each step.

    `on_step_end(pipeline, index, t, tensors) -> tensors` gets those of `names`, and changes them in place or by
    what it returns; `legacy(index, t, latents)` is called each `legacy_steps` steps.
    """

    pipeline: "DiffusionPipeline"
    on_step_end: Callable[..., Mapping[str, Tensor] | None] | None = None
    names: Sequence[str] = ()
    legacy: Callable[..., object] | None = None
    legacy_steps: int = 1

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline", given: Mapping[str, Any]) -> Self:
        """Those of a call, the older kind perhaps among further keywords; other keywords are warned of.

        Raises RequestError for names that are not allowed, and for a count of steps that is none.
        """
        extra = dict(given.get("kwargs", {}))
        legacy = given.get("callback", extra.pop("callback", None))
        every = given.get("callback_steps", extra.pop("callback_steps", None))
        for name in extra:
            warnings.warn(f"{type(pipeline).__name__} takes no {name!r}.", UserWarning, stacklevel=5)
        names = given.get("callback_on_step_end_tensor_inputs", LATENTS) or ()
        for name in names:
            if name not in pipeline._callback_tensor_inputs:
                raise RequestError(f"A callback asks for {name!r}.", nearest(name, pipeline._callback_tensor_inputs))
        steps = 1 if every is None else counted(every, "callback_steps")
        return cls(pipeline, given.get("callback_on_step_end"), names, legacy, steps)

    @torch.no_grad()
    def tell(self, step: Step, latents: Tensor, network: "ComponentNetwork") -> dict[str, Tensor]:
        """Tells of a step, and returns the tensors that the caller changed."""
        t, count = torch.tensor(step.t), len(latents)
        changed: dict[str, Tensor] = {}
        if self.on_step_end is not None:
            given = {name: latents if name == "latents" else network.shown(name, count) for name in self.names}
            before = {name: value.clone() for name, value in given.items() if value is not None}
            returned = self.on_step_end(self.pipeline, step.index, t, dict(given)) or {}
            known = self.pipeline._callback_tensor_inputs
            after = {**given, **{name: value for name, value in returned.items() if name in known}}
            same = {name for name, value in before.items() if _equal(after[name], value)}
            changed = {name: value for name, value in after.items() if value is not None and name not in same}
        if self.legacy is not None and step.index % self.legacy_steps == 0:
            now = changed.get("latents", latents)
            before_it = now.clone()
            self.legacy(step.index, t, now)
            if not torch.equal(before_it, now):
                changed["latents"] = now
        return changed


def _equal(value: Tensor | None, before: Tensor) -> bool:
    return value is not None and value.shape == before.shape and torch.equal(value, before.to(value))


def follow(
    steps: Generator[Step, Tensor | None, None], callbacks: Callbacks, network: "ComponentNetwork", call: Call
) -> Tensor:
    """Runs the trajectory of a call to its end, or until it is interrupted, and returns its last latents.

    Latents that a callback changed go back into the loop, other tensors to the network.
    """
    x: Tensor | None = None
    changed: Tensor | None = None
    with closing(steps):
        for _ in callbacks.pipeline.progress_bar(call.times):
            step = steps.send(changed)
            dtype = next(network.part.parameters()).dtype
            returned = callbacks.tell(step, step.x.to(dtype), network)
            changed = returned.pop("latents", None)
            x = step.x if changed is None else changed.to(step.x)
            if returned:
                network.change(returned, len(x))
            if call.interrupt:
                break
    assert x is not None  # the loop refuses to run without steps
    return x


def warned(encoding: Generator[object, None, object]) -> Any:
    """Runs an encoding to its end and gives what it returns; what was not read of a text is warned of."""
    while True:
        try:
            event = next(encoding)
        except StopIteration as stop:
            return stop.value
        if isinstance(event, Warned):
            warnings.warn(event.message, UserWarning, stacklevel=6)
