"""Files of the OpenAI API: lists of requests for batches, and images for edits."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import FileResponse

from kandinsky.server.bodies import read_upload
from kandinsky.server.documents import Documents, shown
from kandinsky.server.errors import ApiError
from kandinsky.server.openapi import answers, form_body
from kandinsky.server.settings import ServerSettings

router = APIRouter(prefix="/v1")
MOST_LINES = 50_000
IMAGES = ("vision", "user_data")
"""Purposes of files that may be edited."""
PURPOSES = ("batch", *IMAGES)
PURPOSE = {"type": "string", "enum": [*PURPOSES]}
PART = 2**20


def files_of(http: HttpRequest) -> Documents:
    """The files of the server that a request came to."""
    found: Documents = http.app.state.files
    return found


def _most(http: HttpRequest) -> int:
    settings: ServerSettings = http.app.state.service.settings
    return settings.most_uploads


def _owner(http: HttpRequest) -> str:
    return str(http.scope["state"]["owner"])


def keep(files: Documents, owner: str, filename: str, purpose: str, content: bytes | IO[bytes]) -> dict[str, Any]:
    """Keeps a file, whose name is nothing but what it is told by."""
    document = files.new(owner, object="file", filename=filename[:255], purpose=purpose, status="processed")
    document["bytes"] = files.write_content(document, content)
    files.write(document)
    return document


def content_of(files: Documents, owner: str, name: str, purposes: Collection[str]) -> bytes:
    """What is in a file of the owner that has one of these purposes; ApiError where there is none."""
    found = files.read(name, owner)
    if found["purpose"] not in purposes:
        message = f"{name} is for {found['purpose']!r}, and not for {' or '.join(purposes)}."
        raise ApiError(404, message, "file_id", "not_found")
    return files.content(found).read_bytes()


@router.post("/files", openapi_extra=form_body(None, {"file": True}, {"purpose": PURPOSE}))
async def new_file(http: HttpRequest) -> dict[str, Any]:
    """Keeps a file of requests, or an image."""
    async with read_upload(http, "file") as (fields, upload):
        purpose = fields.get("purpose")
        if purpose not in PURPOSES:
            raise ApiError(400, f"purpose is one of {', '.join(PURPOSES)}.", "purpose", "invalid_value")
        if unknown := sorted(fields.keys() - {"purpose"}):
            raise ApiError(400, f"{unknown[0]} has no meaning here.", unknown[0], "unknown_parameter")
        if purpose == "batch" and await asyncio.to_thread(_lines, upload) > MOST_LINES:
            raise ApiError(413, f"A file has at most {MOST_LINES} lines.", "file", "file_too_large")
        await asyncio.to_thread(_check_room, files_of(http), upload, _most(http))
        name = "input.jsonl" if purpose == "batch" else "image"
        made = await asyncio.to_thread(keep, files_of(http), _owner(http), name, purpose, upload)
    return shown(made)


@router.get("/files")
async def files(http: HttpRequest) -> dict[str, Any]:
    """The owner's files, the newest first."""
    found = await asyncio.to_thread(files_of(http).all, _owner(http))
    return {"object": "list", "data": [shown(one) for one in found], "has_more": False}


@router.get("/files/{name}")
async def file(http: HttpRequest, name: str) -> dict[str, Any]:
    """What is known of a file."""
    return shown(files_of(http).read(name, _owner(http)))


@router.get("/files/{name}/content", response_class=FileResponse, responses=answers(None, "application/octet-stream"))
async def content(http: HttpRequest, name: str) -> FileResponse:
    """A file itself."""
    found = files_of(http)
    path: Path = found.content(found.read(name, _owner(http)))
    return FileResponse(path, media_type="application/octet-stream", filename=f"{name}.data")


@router.delete("/files/{name}")
async def remove_file(http: HttpRequest, name: str) -> dict[str, Any]:
    """Removes a file."""
    found = files_of(http)
    found.remove(found.read(name, _owner(http)))
    return {"id": name, "object": "file", "deleted": True}


def _check_room(files: Documents, upload: IO[bytes], most: int) -> None:
    """ApiError 507 where all files with this one would be more than so many bytes."""
    size, there = upload.seek(0, os.SEEK_END), files.size()
    upload.seek(0)
    if there + size > most:
        raise ApiError(
            507,
            f"Files fill {there / 1e6:.0f} MB, this one has {size / 1e6:.1f}, and {most / 1e6:.0f} MB are taken. "
            "Delete files that are not needed.",
            code="uploads_full",
        )


def _lines(upload: IO[bytes]) -> int:
    count = 0
    upload.seek(0)
    while part := upload.read(PART):
        count += part.count(b"\n")
    upload.seek(0)
    return count
