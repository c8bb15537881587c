"""A pipeline without weights, whose images depend on all that was asked, to test the command line on."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.core.events import Decoding, Denoising, Encoding, Event, Finished, Result, Warned
from kandinsky.core.requests import Fields, Request

Command = Callable[..., int]
"""The exit code of a command with these arguments."""
DEFAULTS: dict[str, Any] = {
    "width": 16,
    "height": 16,
    "steps": 4,
    "guidance_scale": 4.0,
    "prior_steps": 3,
    "prior_guidance_scale": 4.0,
    "sampler": "ddpm",
    "eta": 0.0,
    "strength": 0.3,
}


def painted(request: Request, model: str) -> Image.Image:
    data = json.dumps([request.to_json(), model], sort_keys=True).encode()
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8])
    shape = (request.height, request.width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


class FakePipeline:
    """Yields what a real stream yields; calls `on_step` at every decoder step and counts closed streams."""

    def __init__(self, model_id: str = "fake", on_step: Callable[[int], None] | None = None) -> None:
        self.model_id = model_id
        self.on_step = on_step or (lambda step: None)
        self.asked: list[Request] = []
        self.closed = 0
        self.batch_sizes: list[int | None] = []

    def checked(self, request: Request) -> Request:
        """Refuses what real models do not know."""
        if request.sampler == "eulr":
            raise RequestError("unknown sampler 'eulr'.", "Did you mean 'euler'?")
        return request.filled(DEFAULTS)

    def stream_batch(self, requests: Sequence[Request], batch_size: int | None = None) -> Iterator[Event]:
        """The requests one after the other."""
        self.batch_sizes.append(batch_size)
        for index, request in enumerate(requests):
            fields = {name: getattr(request, name) for name in Fields.__annotations__}
            for event in self.stream(request.prompt, **fields):
                yield replace(event, index=index) if isinstance(event, Finished) else event

    def stream(self, prompt: Any, **fields: Any) -> Iterator[Event]:
        request = Request(prompt, **fields).filled(DEFAULTS)
        assert request.size == 1
        self.asked.append(request)
        image = painted(request, self.model_id)
        try:
            yield Encoding("text")
            yield Warned("the end of the prompt was cut off")
            for step in range(request.prior_steps or 0):
                yield Denoising("prior", step + 1, request.prior_steps or 0)
            for step in range(request.steps or 0):
                self.on_step(step + 1)
                yield Denoising("decoder", step + 1, request.steps or 0, lambda: [image.resize((4, 4))])
            yield Decoding()
            yield Finished(Result([image], request.seeds, request.to_json()))
        except GeneratorExit:
            self.closed += 1
            raise


class Loader:
    """Stands for `kandinsky.load` and keeps what it was called with."""

    def __init__(self, pipeline: FakePipeline) -> None:
        self.pipeline = pipeline
        self.calls: list[tuple[str | None, dict[str, Any]]] = []

    def __call__(self, model: str | None = None, *, on_progress: Any = None, **settings: Any) -> FakePipeline:
        on_progress("model.safetensors", 1_000_000, 2_000_000)
        self.calls.append((model, {name: value for name, value in settings.items() if value is not None}))
        if model is not None:
            self.pipeline.model_id = model
        return self.pipeline
