"""Sampling defaults that an adapter brings, in place of its checkpoint's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.core.requests import Request
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.diffusion.schedule import Schedule, Spacing
from kandinsky.generations.model import Model

SAMPLING = "sampling"
"""Under which the notes in an adapter's file say it."""
FIELDS = ("steps", "guidance_scale", "sampler")
SPACINGS: tuple[Spacing, ...] = ("leading", "linspaced", "trailing")


@dataclass(frozen=True)
class Sampling:
    """Request fields that take the place of a checkpoint's defaults, and how times are spaced.

    `defaults` are values of `FIELDS`. Networks distilled to few steps were made for certain times.
    """

    defaults: Mapping[str, Any]
    spacing: Spacing

    @classmethod
    def from_json(cls, value: Any, where: object) -> "Sampling":
        """Reads what `to_json` made; raises CheckpointError, naming the file `where`, for what cannot be."""
        if not isinstance(value, Mapping) or not isinstance(value.get("defaults"), Mapping):
            raise CheckpointError(f"{where} has a sampling that is not a table.", "Download it again.")
        defaults, spacing = dict(value["defaults"]), value.get("spacing")
        try:
            if unknown := sorted(defaults.keys() - set(FIELDS)):
                raise RequestError(f"{unknown[0]!r} is not part of it.", nearest(unknown[0], FIELDS))
            Request("", **defaults)
            sampler = defaults.get("sampler")
            if sampler is not None and sampler not in SAMPLERS:
                raise RequestError(f"unknown sampler {sampler!r}.", nearest(sampler, SAMPLERS))
            if spacing not in SPACINGS:
                raise RequestError(f"unknown spacing {spacing!r}.", nearest(str(spacing), SPACINGS))
        except (RequestError, TypeError) as error:
            raise CheckpointError(
                f"{where} has a sampling that cannot be: {error}", "It needs a newer version of this library."
            ) from error
        return cls(defaults, spacing)

    def to_json(self) -> dict[str, Any]:
        """This as JSON values for `from_json`."""
        return {"defaults": dict(self.defaults), "spacing": self.spacing}

    def applied(self, model: Model) -> Model:
        """The model with these defaults, whose samplers all visit times of this spacing."""
        sampler = self.defaults.get("sampler") or model.schedule.sampler
        schedule = replace(self._spaced(model.schedule_of(sampler)), sampler=sampler, eta=None)
        schedules = {name: self._spaced(other) for name, other in model.schedules.items() if name != sampler}
        return replace(model, schedule=schedule, schedules=schedules, defaults={**model.defaults, **self.defaults})

    def _spaced(self, schedule: Schedule) -> Schedule:
        return replace(schedule, spacing=self.spacing, only=(), process_of=None)
