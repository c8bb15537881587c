"""What every conditioner gives to the denoising loop, and how it is asked."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kandinsky.core.events import Event
from kandinsky.core.requests import Request, Row
from kandinsky.core.rng import Rng


@dataclass(frozen=True, eq=False)
class Conditions:
    """Network conditions, one row a picture; `uncond` is None when nothing is guided."""

    cond: Any
    uncond: Any | None


class Conditioner(Protocol):
    """Turns prompts into conditions."""

    def encode(
        self, rows: Sequence[Row], request: Request, rng: Rng, guided: bool
    ) -> Generator[Event, None, Conditions]:
        """Encodes the prompts of `rows`; `request` holds the options with every default filled in."""
        ...
