"""Pictures of several requests in the same batches of the networks."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from kandinsky.conditioning.conditions import Batch
from kandinsky.core.errors import RequestError
from kandinsky.core.events import Event, Finished, Result
from kandinsky.core.requests import ROW_FIELDS, Request, Row
from kandinsky.core.rng import Rng
from kandinsky.diffusion.guidance import is_guided
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import draw, encode

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
RngMaker: TypeAlias = Callable[[Sequence[int]], Rng]
Finish: TypeAlias = "Callable[[Request, list[Image], int], Result]"

WAVE = 64
"""How many pictures have their prompts encoded before they are drawn: conditions take memory, and encoders
that come and go should not do so for each batch."""
OF_ONE_PICTURE = (*ROW_FIELDS, "seed", "count")
"""Fields of a request in which the pictures of a batch may differ."""


@dataclass(frozen=True)
class Member:
    """Picture `place` of request number `request`."""

    request: int
    place: int
    row: Row


@dataclass(frozen=True)
class Group:
    """Pictures that can be in one batch; `request` holds what they have in common."""

    request: Request
    members: list[Member] = field(default_factory=list)


def check_batch_size(size: object) -> int:
    """The size, where it is one; RequestError otherwise."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise RequestError(f"batch_size is {size!r}.", "Use a whole number from 1 up.")
    return size


def groups_of(model: Model, requests: Sequence[Request]) -> list[Group]:
    """The pictures of all requests (defaults filled in), by what can be in one batch, in their order.

    Guided and unguided pictures are kept apart: these need half as many calls of a network.
    """
    groups: dict[object, Group] = {}
    for index, request in enumerate(requests):
        names = [name for name in Request.model_fields if name not in OF_ONE_PICTURE]
        common = tuple(getattr(request, name) for name in names)
        for place, row in enumerate(request.rows()):
            given = tuple(picture is not None for picture in (row.image, row.mask, row.hint))
            guided = (
                is_guided(model.guidance(row.guidance_scale)),
                is_guided(row.prior_guidance_scale),
            )
            group = groups.setdefault((common, given, guided), Group(request))
            group.members.append(Member(index, place, row))
    return list(groups.values())


def run(
    model: Model, requests: Sequence[Request], batch_size: int, rng: RngMaker, finish: Finish
) -> Generator[Event, None, None]:
    """Draws the pictures of requests that went through `check`, at most `batch_size` of them at once.

    `rng` makes the noise of a batch from its seeds. `finish(request, images, batch)` makes the result of a
    request, of whose pictures up to `batch` were drawn at once. The progress of events is that of a group.
    """
    images: list[list[Image | None]] = [[None] * request.size for request in requests]
    largest = [0] * len(requests)
    for group in groups_of(model, requests):
        parts = portions(group.members, batch_size)
        done = 0
        for wave in portions(parts, max(1, WAVE // batch_size)):
            batches = [Batch([one.row for one in part], rng([one.row.seed for one in part])) for part in wave]
            conditions = yield from encode(model, group.request, batches)
            for part, batch, condition in zip(wave, batches, conditions, strict=True):
                found = yield from draw(model, group.request, batch, condition, done, len(parts))
                done += 1
                for one, image in zip(part, found, strict=True):
                    images[one.request][one.place] = image
                    largest[one.request] = max(largest[one.request], len(part))
                for index in sorted({one.request for one in part}):
                    made = [image for image in images[index] if image is not None]
                    if len(made) == requests[index].size:
                        images[index] = []
                        yield Finished(finish(requests[index], made, largest[index]), index)


def portions(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in parts of that size, of which the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
