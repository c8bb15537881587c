"""Jobs over HTTP: ask, look, wait for events, change their order, cancel, find again, delete."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import FileResponse, Response, StreamingResponse

from kandinsky.jobs import store
from kandinsky.jobs.store import STATES, Job, State
from kandinsky.server.errors import shown_error
from kandinsky.server.inputs import drawn, read_request, request_schema
from kandinsky.server.openai_images import service_of
from kandinsky.server.openapi import answers

router = APIRouter(prefix="/api")
PRIORITIES = (-10, 10)
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


class NewJobs(BaseModel):
    """A request, what is said of its jobs, and the adapters that act (None: those that the server began with).

    `request` has the fields of `kandinsky.Request`. Images in it, also in a mix, are `{"sha256": ...}` of one that was
    sent to /api/inputs, or `{"job": ...}` of the owner's own that is done.
    """

    model_config = ConfigDict(extra="forbid")

    request: Annotated[dict[str, Any], WithJsonSchema(request_schema())]
    lora: dict[str, Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)]] | None = Field(None, max_length=16)
    priority: int = Field(0, ge=PRIORITIES[0], le=PRIORITIES[1])
    previews: int = Field(0, ge=0, le=20)
    format: Literal["png", "jpg", "webp"] = "png"


class Changes(BaseModel):
    """What may be changed of a job."""

    model_config = ConfigDict(extra="forbid")

    priority: int | None = Field(None, ge=PRIORITIES[0], le=PRIORITIES[1])
    favourite: bool | None = None


class JobList(BaseModel):
    """Jobs, the newest first; `next` is what `before` of the next page is, where there is one."""

    jobs: list[dict[str, Any]]
    next: int | None


def owner_of(http: HttpRequest) -> str:
    """Who sent a request."""
    return str(http.scope["state"]["owner"])


@router.post("/jobs", status_code=202)
async def ask(http: HttpRequest, new: NewJobs) -> JobList:
    """Queues a request; a job for each of its images."""
    service, owner = service_of(http), owner_of(http)
    request = await read_request(service, owner, new.request)
    names = await service.submit(
        request, owner, priority=new.priority, previews=new.previews, suffix=f".{new.format}", lora=new.lora
    )
    return JobList(jobs=[await job_shown(http, await service.job(name, owner)) for name in names], next=None)


@router.get("/jobs")
async def find(
    http: HttpRequest,
    text: Annotated[str, Query(max_length=32_000)] = "",
    state: State | None = None,
    favourite: bool = False,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobList:
    """The owner's jobs, the newest first, by what their prompts hold."""
    states: tuple[State, ...] = STATES if state is None else (state,)
    found = await service_of(http).on_store(store.found, owner_of(http), states, text, favourite, before, limit + 1)
    more = found[limit - 1].id if len(found) > limit else None
    return JobList(jobs=[await job_shown(http, job) for job in found[:limit]], next=more)


@router.get("/jobs/{name}")
async def look(http: HttpRequest, name: str) -> dict[str, Any]:
    """A job of the owner."""
    return await job_shown(http, await service_of(http).job(name, owner_of(http)))


@router.patch("/jobs/{name}")
async def change(http: HttpRequest, name: str, changes: Changes) -> dict[str, Any]:
    """Changes the priority of a queued job, or marks one as a favourite."""
    service = service_of(http)
    job = await service.job(name, owner_of(http))
    await service.on_store(store.change, job.id, priority=changes.priority, favourite=changes.favourite)
    return await job_shown(http, await service.job(name))


@router.post("/jobs/{name}/cancel")
async def cancel(http: HttpRequest, name: str) -> dict[str, Any]:
    """Cancels a job; a running one stops at its next step."""
    service = service_of(http)
    await service.job(name, owner_of(http))
    await service.cancel([name])
    return await job_shown(http, await service.job(name))


@router.delete("/jobs/{name}", status_code=204)
async def forget(http: HttpRequest, name: str) -> Response:
    """Removes a job that has ended, and its image; cancels one that has not."""
    service = service_of(http)
    job = await service.job(name, owner_of(http))
    if job.state in ("queued", "running"):
        await service.cancel([name])
    else:
        await service.forget(job)
    return Response(status_code=204)


@router.get("/jobs/{name}/events", response_class=StreamingResponse, responses=answers(None, "text/event-stream"))
async def events(http: HttpRequest, name: str) -> StreamingResponse:
    """What happens to a job, as server-sent events, until it has ended."""
    service = service_of(http)
    job = await service.job(name, owner_of(http))

    async def stream() -> AsyncIterator[str]:
        yield _event("state", {"state": job.state, "before": await service.on_store(store.place, job.id)})
        async for told in service.follow(name):
            values = dict(told.values)
            if told.kind == "preview":
                values["rgb"] = base64.b64encode(told.data).decode()
            yield _event(told.kind, values)
        yield _event("job", await job_shown(http, await service.job(name)))

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.get("/images/{name}", name="image", response_class=FileResponse, responses=answers(None, *MEDIA.values()))
async def image(http: HttpRequest, name: str) -> FileResponse:
    """The image of a job that is done."""
    path = await drawn(service_of(http), owner_of(http), name)
    headers = {"content-security-policy": "sandbox; default-src 'none'", "cache-control": "private, max-age=31536000"}
    return FileResponse(path, media_type=MEDIA[path.suffix], filename=path.name, headers=headers)


def _event(kind: str, values: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"


async def job_shown(http: HttpRequest, job: Job) -> dict[str, Any]:
    """A job as clients see it: nothing of where things lie on the server."""
    assert isinstance(job.request, dict)
    said = job.result[0] if isinstance(job.result, list) and job.result else None
    queued = job.state == "queued"
    return {
        "id": job.name,
        "number": job.id,
        "state": job.state,
        "priority": job.priority,
        "favourite": job.favourite,
        "request": plain(job.request["request"]),
        "lora": job.request.get("lora"),
        "progress": job.progress,
        "before": await service_of(http).on_store(store.place, job.id) if queued else 0,
        "image": str(http.url_for("image", name=job.name)) if job.state == "done" else None,
        "seed": said.get("seed") if isinstance(said, dict) else None,
        "size": said.get("size") if isinstance(said, dict) else None,
        "error": shown_error(job.error),
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
    }


def plain(value: Any) -> Any:
    """A stored value without the places of files."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name != "path"}
    return [plain(one) for one in value] if isinstance(value, list) else value
