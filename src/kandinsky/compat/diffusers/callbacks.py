"""Following a trajectory: the progress bar, the caller's callbacks, and what these change."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kandinsky.compat.terminal import progress_bar
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.events import Warned
from kandinsky.diffusion.loop import Step

LATENTS = ["latents"]
"""What callbacks are told of unless they ask for more."""
Named = Mapping[str, Callable[[], Tensor]]


@dataclass(frozen=True, eq=False)
class Callbacks:
    """What a caller wants to be told after each step.

    `on_step_end(pipeline, index, t, tensors) -> changed tensors` gets those of `names`; `legacy(index, t,
    latents)` is called each `legacy_steps` steps and changes nothing.
    """

    pipeline: object = None
    on_step_end: Callable[..., Mapping[str, Tensor] | None] | None = None
    names: Sequence[str] = ("latents",)
    legacy: Callable[..., object] | None = None
    legacy_steps: int = 1

    def checked(self, allowed: Sequence[str]) -> "Callbacks":
        """Itself; raises RequestError for names that are not allowed, and for a count of steps that is
        none."""
        for name in self.names or ():
            if name not in allowed:
                raise RequestError(f"A callback asks for {name!r}.", nearest(name, allowed))
        steps = self.legacy_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise RequestError(f"callback_steps is {steps!r}.", "Give a whole number from 1 up.")
        return self

    def tell(self, step: Step, tensors: Named) -> dict[str, Tensor]:
        """Tells of a step, and returns the tensors that the caller changed; `tensors` are all but the
        latents."""
        t = torch.tensor(step.t)
        changed: dict[str, Tensor] = {}
        if self.on_step_end is not None:
            given = {name: step.x if name == "latents" else tensors[name]() for name in self.names or ()}
            returned = self.on_step_end(self.pipeline, step.index, t, dict(given)) or {}
            changed = {name: value for name, value in returned.items() if value is not given.get(name)}
        if self.legacy is not None and step.index % self.legacy_steps == 0:
            self.legacy(step.index, t, changed.get("latents", step.x))
        return changed


def follow(
    trajectory: Generator[Step, Tensor | None, None],
    callbacks: Callbacks,
    tensors: Named | None = None,
    on_change: Callable[[dict[str, Tensor]], None] | None = None,
    bar: Mapping[str, object] | None = None,
) -> Tensor:
    """Runs a trajectory to its end and returns its last latents.

    Latents that a callback returned go back into the loop, other tensors to `on_change`. `bar` are
    settings of the progress bar, which is shown on terminals only.
    """
    settings = bar or {}
    with closing(trajectory) as steps, progress_bar(not settings.get("disable", False)) as show:
        x: Tensor | None = None
        changed: Tensor | None = None
        while True:
            try:
                step = steps.send(changed)
            except StopIteration:
                break
            returned = callbacks.tell(step, tensors or {})
            changed = returned.pop("latents", None)
            x = step.x if changed is None else changed.to(step.x)
            if returned and on_change is not None:
                on_change(returned)
            show(step.index + 1, step.total, str(settings.get("desc") or ""))
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
