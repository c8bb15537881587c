"""What those hear who listen to jobs."""

import asyncio
from dataclasses import dataclass, field

from pydantic import JsonValue

LEAVING = "leaving"
"""What those who wait hear when the server stops before their job has ended."""


@dataclass(frozen=True)
class Told:
    """Something that happened to a job: its state, or progress (stage, step, total), or a preview as RGB bytes."""

    kind: str
    values: dict[str, JsonValue] = field(default_factory=dict)
    data: bytes = b""


def tell(heard: asyncio.Queue[tuple[str, Told]], what: tuple[str, Told]) -> bool:
    """Tells a listener; False where it does not keep up."""
    try:
        heard.put_nowait(what)
    except asyncio.QueueFull:
        return False
    return True
