"""What the page watches: all jobs of an owner as one stream of events, what waits in which order, what there is."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from kandinsky.core.errors import RequestError
from kandinsky.core.prompts import mix
from kandinsky.core.requests import Request
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.jobs import store
from kandinsky.server.errors import ApiError
from kandinsky.server.jobs_api import JobList, job_shown, owner_of
from kandinsky.server.openai_images import service_of
from kandinsky.server.openapi import answers
from kandinsky.server.service import ENDED, Service
from kandinsky.tasks.resolve import resolve

router = APIRouter(prefix="/api")
LONGEST_QUEUE = 500


class Order(BaseModel):
    """Names of queued jobs, in the order in which they are to be drawn."""

    model_config = ConfigDict(extra="forbid")

    order: list[str] = Field(max_length=LONGEST_QUEUE)


class Options(BaseModel):
    """What a server can draw with, and what it does where a request says nothing."""

    model: str
    generation: str
    owner: str
    token: bool
    ready: bool
    defaults: dict[str, Any]
    samplers: list[str]
    lora: dict[str, float]
    words: list[str]
    takes: dict[str, bool]
    largest_body: int
    most_queued: int


@router.get("/events", response_class=StreamingResponse, responses=answers(None, "text/event-stream"))
async def all_events(http: HttpRequest) -> StreamingResponse:
    """What happens to all jobs of the owner, as server-sent events, for as long as somebody listens."""
    service, owner = service_of(http), owner_of(http)

    async def stream() -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        async for found in service.watch(owner):
            if found is None:
                yield ": still here\n\n"
                continue
            name, told = found
            values: dict[str, Any] = {"id": name, **told.values}
            if told.kind == "preview":
                values["rgb"] = base64.b64encode(told.data).decode()
            if told.kind in (*ENDED, "queued"):
                try:
                    values = await job_shown(http, await service.job(name, owner))
                except ApiError:  # it was forgotten at once
                    continue
            yield f"event: {told.kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.get("/queue")
async def queue(http: HttpRequest) -> JobList:
    """The owner's jobs that are running, then those that wait, in their order; up to 500."""
    found = await service_of(http).on_store(store.waiting, owner_of(http), LONGEST_QUEUE)
    return JobList(jobs=[await job_shown(http, job) for job in found], next=None)


@router.put("/queue", responses={404: {"description": "A job is none of the owner's."}})
async def reorder(http: HttpRequest, new: Order) -> JobList:
    """Puts queued jobs into another order, in the places that they have; nobody else's turn changes."""
    service = service_of(http)
    jobs = [await service.job(name, owner_of(http)) for name in new.order]
    await service.on_store(store.reorder, [job.id for job in jobs])
    return await queue(http)


@router.get("/options")
async def options(http: HttpRequest) -> Options:
    """The model, its defaults, samplers, adapters and learned words, and what it takes."""
    service = service_of(http)
    model = service.outline.model
    return Options(
        model=service.settings.model,
        generation=model.name,
        owner=owner_of(http),
        token=bool(service.settings.owners),
        ready=service.ready,
        defaults={name: value for name, value in model.defaults.items() if value is not None},
        samplers=list(SAMPLERS),
        lora=service.offered,
        words=service.words,
        takes=_takes(service),
        largest_body=service.settings.largest_body,
        most_queued=service.settings.most_queued,
    )


def _takes(service: Service) -> dict[str, bool]:
    """Whether the model can do each kind of work, found out by asking it."""
    model = service.outline.model
    tried = {
        "text": Request("a"),
        "mix": Request(mix(["a", "b"])),
        "negative_prompt": Request("a", negative_prompt="b"),
    }
    found = dict.fromkeys(tried, True)
    for name, request in tried.items():
        try:
            resolve(model, request)
        except RequestError:
            found[name] = False
    return {
        **found,
        "hint": bool(model.hints),
        "only_masks": bool(model.extra_channels),
        "prior": "prior_steps" in model.defaults,
    }
