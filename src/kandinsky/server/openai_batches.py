"""Files and batches of the OpenAI API: a file of requests becomes a file of answers, whatever is killed meanwhile."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field

from kandinsky.core.errors import KandinskyError
from kandinsky.core.requests import Request
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json
from kandinsky.server import openai_images
from kandinsky.server.bodies import read_fields
from kandinsky.server.documents import Documents, shown
from kandinsky.server.errors import ApiError, api_error
from kandinsky.server.openai_files import keep
from kandinsky.server.openai_images import edit_of, request_of
from kandinsky.server.openai_models import AskedPrompt
from kandinsky.server.service import Service
from kandinsky.server.webhooks import Webhook

router = APIRouter(prefix="/v1")
AHEAD = 64
"""Rows of a batch that are in the queue at once, so that it fills nobody's queue."""
EDITS = "/v1/images/edits"
ENDED = ("completed", "cancelled", "failed")


class NewBatch(BaseModel):
    """What a batch is made of."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/images/generations", "/v1/images/edits"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = Field(None, max_length=16)


class Batches:
    """The batches of a server, which go on where they stopped."""

    def __init__(self, service: Service, files: Documents, webhook: Webhook | None = None) -> None:
        self.service, self.files, self.webhook = service, files, webhook
        self.batches = Documents(service.settings.data / "batches", "batch_")
        self._running = set[asyncio.Task[None]]()
        self._cancelled = set[str]()
        self._drawing: dict[str, set[str]] = {}

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["Batches"]:
        """Goes on with what was begun before."""
        for batch in await asyncio.to_thread(self.batches.all):
            if batch["status"] not in ENDED:
                self.begin(batch)
        try:
            yield self
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def begin(self, batch: dict[str, Any]) -> None:
        """Draws a batch in the background."""
        task = asyncio.create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def cancel(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Begins no further row of a batch, and stops those that are being drawn."""
        if batch["status"] not in ENDED:
            self._cancelled.add(batch["id"])
            batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
            await asyncio.to_thread(self.batches.write, batch)
            await self.service.cancel(list(self._drawing.get(batch["id"], ())))
        return batch

    async def _run(self, batch: dict[str, Any]) -> None:
        owner = batch["owner"]
        try:
            lines = self.files.content(self.files.read(batch["input_file_id"], owner)).read_bytes().split(b"\n")
        except (ApiError, OSError):
            batch |= {"status": "failed", "failed_at": int(time.time())}
            self.batches.write(batch)
            return
        rows = [line for line in lines if line.strip()]
        counts = {"total": len(rows), "completed": 0, "failed": 0}
        if batch["status"] == "cancelling":
            self._cancelled.add(batch["id"])
        else:
            batch |= {"status": "in_progress", "in_progress_at": int(time.time()), "request_counts": counts}
            self.batches.write(batch)
        gate, results = asyncio.Semaphore(AHEAD), list[dict[str, Any]]()

        async def row(number: int, line: bytes) -> dict[str, Any] | None:
            async with gate:
                if batch["id"] in self._cancelled:
                    return None
                answer = await self._answer(batch, number, line)
                if answer["response"]["status_code"] != 200 and batch["id"] in self._cancelled:
                    return None
                counts["failed" if answer["error"] or answer["response"]["status_code"] >= 400 else "completed"] += 1
                return answer

        results = [one for one in await asyncio.gather(*map(row, range(len(rows)), rows)) if one is not None]
        good = [one for one in results if one["response"]["status_code"] < 400]
        bad = [one for one in results if one["response"]["status_code"] >= 400]
        for name, part in (("output_file_id", good), ("error_file_id", bad)):
            if part:
                batch[name] = (await asyncio.to_thread(self._filed, owner, part))["id"]
        status = "cancelled" if batch["id"] in self._cancelled else "completed"
        self._drawing.pop(batch["id"], None)
        batch |= {"status": status, f"{status}_at": int(time.time()), "request_counts": counts}
        await asyncio.to_thread(self.batches.write, batch)
        if self.webhook is not None:
            await asyncio.to_thread(self.webhook.tell, f"batch.{status}", {"id": batch["id"]})

    def _filed(self, owner: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        content = "".join(json.dumps(one) + "\n" for one in rows).encode()
        return keep(self.files, owner, "output.jsonl", "batch_output", content)

    async def _request(self, body: dict[str, Any], batch: dict[str, Any]) -> tuple[Request, AskedPrompt]:
        if batch["endpoint"] == EDITS:
            asked: AskedPrompt
            asked, fields = await edit_of(self.service, self.files, batch["owner"], body)
        else:
            asked = read_fields(AskedPrompt, body, strict=True)
            fields = {"prompt": asked.prompt}
        if asked.stream or asked.response_format == "url":
            raise ApiError(400, "A batch has neither streams nor addresses.", "stream", "invalid_value")
        return request_of(self.service, asked, fields), asked

    async def _answer(self, batch: dict[str, Any], number: int, line: bytes) -> dict[str, Any]:
        """What became of a row: as the API's answer to it."""
        key = hashlib.sha256(f"{batch['id']} {number}".encode()).hexdigest()[:32]
        custom: object = None
        try:
            body, custom = _row(line, batch["endpoint"])
            request, asked = await self._request(body, batch)
            names = await self.service.submit(request, batch["owner"], key=key, lora=asked.lora)
            drawing = self._drawing.setdefault(batch["id"], set())
            drawing.update(names)
            if batch["id"] in self._cancelled:
                await self.service.cancel(names)
            jobs = [await self.service.ended(name) for name in names]
            drawing.difference_update(names)
            data = [await openai_images.datum(self.service, asked, job) for job in jobs]
            status, said = 200, {"created": int(time.time()), "data": data}
        except ApiError as error:
            if self.service.draining:
                await asyncio.Event().wait()  # until this is cancelled; the row goes on with the next server
            status, said = error.status, error.body()
        except KandinskyError as error:
            status, said = api_error(error).status, api_error(error).body()
        response = {"status_code": status, "request_id": key, "body": said}
        return {"id": f"batch_req_{key}", "custom_id": custom, "response": response, "error": None}


def _row(line: bytes, endpoint: str) -> tuple[dict[str, Any], str]:
    try:
        found = parse_json(line, finite=True)
    except UnsoundTextError as error:
        raise ApiError(400, f"The line is no JSON: {error}.", code="invalid_json") from error
    match found:
        case {"custom_id": str(custom), "method": "POST", "url": str(url), "body": dict(body)} if url == endpoint:
            return body, custom
        case _:
            raise ApiError(400, "The line has no custom_id, method, url and body of the batch.", code="invalid_value")


def batches_of(http: HttpRequest) -> Batches:
    """The batches of the server that a request came to."""
    found: Batches = http.app.state.batches
    return found


def _owner(http: HttpRequest) -> str:
    return str(http.scope["state"]["owner"])


@router.post("/batches")
async def new_batch(http: HttpRequest, new: NewBatch) -> dict[str, Any]:
    """Begins a batch."""
    found, owner = batches_of(http), _owner(http)
    found.files.read(new.input_file_id, owner)
    batch = found.batches.new(
        owner,
        object="batch",
        **new.model_dump(),
        status="validating",
        request_counts={"total": 0, "completed": 0, "failed": 0},
        output_file_id=None,
        error_file_id=None,
        errors=None,
    )
    await asyncio.to_thread(found.batches.write, batch)
    found.begin(dict(batch))
    return shown(batch)


@router.get("/batches")
async def batches(http: HttpRequest) -> dict[str, Any]:
    """The owner's batches, the newest first."""
    found = await asyncio.to_thread(batches_of(http).batches.all, _owner(http))
    return {"object": "list", "data": [shown(one) for one in found], "has_more": False}


@router.get("/batches/{name}")
async def batch(http: HttpRequest, name: str) -> dict[str, Any]:
    """A batch as it stands."""
    return shown(batches_of(http).batches.read(name, _owner(http)))


@router.post("/batches/{name}/cancel")
async def cancel(http: HttpRequest, name: str) -> dict[str, Any]:
    """Begins no further row of a batch, and stops those that are being drawn."""
    found = batches_of(http)
    return shown(await found.cancel(found.batches.read(name, _owner(http))))
