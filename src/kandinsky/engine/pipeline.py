"""A loaded checkpoint, ready for requests."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from kandinsky.checkpoints.diffusers_folder import open_folder
from kandinsky.checkpoints.hub import resolve
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.core.events import Denoising, Event, Finished, Result
from kandinsky.core.prompts import PromptLike
from kandinsky.core.requests import Fields, Request
from kandinsky.core.rng import PerPictureRng, Rng
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.engine.devices import choose_device, choose_dtype
from kandinsky.engine.embedded import EMBEDDED, embedded_folder
from kandinsky.generations import Placement, load_model, needs_prior
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import generate

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[str, int, int], None]
RngMaker = Callable[[Sequence[int]], Rng]


class Pipeline:
    """A checkpoint on a device.

    `model` is its parts and settings; `model_id` is what `load` was told, and `settings` the other arguments of it
    that shape pixels; `batch_size` is how many pictures are denoised together (each comes out as it would alone, to
    rounding; with 1, to the bit).
    """

    def __init__(
        self, model: Model, model_id: str = "", settings: dict[str, Any] | None = None, batch_size: int = 1
    ) -> None:
        self.model = model
        self.model_id = model_id
        self.settings = settings or {}
        self.batch_size = batch_size

    def generate(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> Result:
        """Makes the pictures of one request; see `Request` for the fields, their ranges and errors."""
        for event in self.stream(prompt, **fields):
            if isinstance(event, Finished):
                return event.result
        raise RuntimeError("the stream ended without a result")

    def stream(
        self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]
    ) -> Generator[Event, None, None]:
        """As `generate`, but yields what happens as it happens; the last event is `Finished`.

        The request is checked before this returns. Closing the stream cancels the work and frees its memory.
        """
        return self.run(Request(prompt, **fields))

    def run(self, request: Request, rng: RngMaker | None = None) -> Generator[Event, None, None]:
        """Streams an already built request; `rng` makes the source of noise from seeds (default: one per picture)."""
        filled = request.filled(self.model.defaults)
        name = filled.sampler or self.model.schedule.sampler
        if name not in SAMPLERS:
            raise RequestError(f"There is no sampler {name!r}.", nearest(name, SAMPLERS))
        return self._events(filled.replaced(sampler=name), rng or self._rng)

    def _rng(self, seeds: Sequence[int]) -> Rng:
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        return PerPictureRng.from_seeds(seeds, dtype)

    def _events(self, request: Request, rng: RngMaker) -> Generator[Event, None, None]:
        rows = request.rows()
        parts = [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]
        images: list[Image] = []
        for index, part in enumerate(parts):
            with closing(generate(self.model, request, part, rng([row.seed for row in part]))) as events:
                images += yield from _shifted(events, index, len(parts))
        batch = min(self.batch_size, len(rows))
        yield Finished(Result(images, request.seeds, request.to_json(), self.model_id, self.settings, batch))


def _shifted(
    events: "Generator[Event, None, list[Image]]", index: int, parts: int
) -> "Generator[Event, None, list[Image]]":
    """The events of one part of a request, with steps counted over all parts."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if isinstance(event, Denoising):
            event = replace(event, step=index * event.total + event.step, total=parts * event.total)
        yield event


def load(
    model: str | Path | None = None,
    *,
    prior: str | Path | bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    batch_size: int | None = None,
    on_progress: Progress | None = None,
) -> Pipeline:
    """Loads a checkpoint: the embedded one, a folder in diffusers layout, or a Hub id.

    `prior` is the folder or Hub id of the prior (found by itself where the decoder's README names it; False loads the
    decoder alone, for embeddings). `device` and `dtype` default to the best of this machine. `variant` picks files such
    as "fp16", `revision` pins a Hub commit. `on_progress(file, done, total)` is told of downloads. Raises
    CheckpointError (HubError for downloads) or RequestError, naming what is missing and what to do.
    """
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"batch_size is {batch_size}.", "Use 1 or more.")
    model_id = EMBEDDED if model is None else str(model)
    root = (
        embedded_folder()
        if model_id == EMBEDDED
        else resolve(model_id, revision=revision, variant=variant, on_progress=on_progress)
    )
    folder = open_folder(root)
    prior_folder = None
    if isinstance(prior, str | Path):
        prior_folder = open_folder(resolve(prior, variant=variant, on_progress=on_progress))
    elif prior is not False and needs_prior(folder):
        named = folder.prior_reference()
        if named is None:
            raise CheckpointError(
                f"{root} is a decoder without a prior, and its README names none.",
                "Give prior= a folder or a Hub id, or prior=False to work with embeddings only.",
            )
        prior_folder = open_folder(resolve(named, variant=variant, on_progress=on_progress))
    loaded = load_model(folder, prior_folder, Placement(place, number, variant))
    settings = {
        "prior": None if prior is None else str(prior) if not isinstance(prior, bool) else prior,
        "dtype": str(number).removeprefix("torch."),
        "variant": variant,
        "revision": revision,
    }
    size = batch_size or (4 if place.type == "cuda" else 1)
    return Pipeline(loaded, model_id, {k: v for k, v in settings.items() if v is not None}, size)
