"""What the page needs of images: sending them, small ones, and what a file says of how it was made."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel
from starlette.responses import FileResponse

from kandinsky.core.files import write_atomically
from kandinsky.core.foreign_metadata import Foreign
from kandinsky.core.images import read_image
from kandinsky.server.inputs import drawn, input_file
from kandinsky.server.jobs_api import owner_of, plain
from kandinsky.server.openai_images import service_of
from kandinsky.server.uploads import metadata_in, opened

router = APIRouter(prefix="/api")
SMALL = 320
"""Pixels of the longer side of a small image."""
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/png", "image/jpeg", "image/webp")
        },
    }
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such image of the owner's."}}
NO_IMAGE: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is no image, or it is damaged."},
    413: {"description": "The image is too large."},
    507: {"description": "There is no room for more images."},
}
IMAGE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/webp": {}}, "description": "The image."},
    **NOT_FOUND,
}
SENT = {"content-security-policy": "sandbox; default-src 'none'", "cache-control": "private, no-cache"}
"""Whoever looks at an image that was sent uses it, which the server has to know; and it may be gone."""
PRIVATE = {"content-security-policy": "sandbox; default-src 'none'", "cache-control": "private, max-age=31536000"}


class Input(BaseModel):
    """An image that was sent: what requests name it by, and its size in pixels."""

    sha256: str
    width: int
    height: int


class Made(BaseModel):
    """What the file of an image says of how it was made.

    `tool` is "kandinsky" or the name of another, None where it says nothing. Of ours `request` is what repeats it; of
    others those fields that have the same meaning here, `rest` all else as it is written.
    """

    tool: str | None
    request: dict[str, Any]
    lora: dict[str, Any]
    model: str
    rest: dict[str, str]


@router.post("/inputs", status_code=201, openapi_extra=IMAGE_BODY, responses=NO_IMAGE)
async def send(http: HttpRequest, mask: bool = False) -> Input:
    """Keeps an image for the owner's requests: the body, as it is; `mask` for one that is white where to repaint."""
    service, owner, data = service_of(http), owner_of(http), await http.body()
    picture = await asyncio.to_thread(lambda: service.inputs.keep(opened(data, "image"), owner, mask=mask))
    return Input(sha256=picture.sha256, width=picture.size[0], height=picture.size[1])


@router.get("/inputs/{name}", response_class=FileResponse, responses=IMAGE_ANSWER)
async def sent(http: HttpRequest, name: str) -> FileResponse:
    """An image that the owner has sent."""
    path = input_file(service_of(http), owner_of(http), name)
    return FileResponse(path, media_type="image/png", filename="input.png", headers=SENT)


@router.get("/images/{name}/small", response_class=FileResponse, responses=IMAGE_ANSWER)
async def small(http: HttpRequest, name: str) -> FileResponse:
    """The image of a job that is done, at most 320 pixels high and wide."""
    service, owner = service_of(http), owner_of(http)
    path = await drawn(service, owner, name)
    target = service.thumbnail(await service.job(name, owner))
    if not target.is_file():
        await asyncio.to_thread(_shrink, path, target)
    return FileResponse(target, media_type="image/webp", headers=PRIVATE)


@router.post("/metadata", openapi_extra=IMAGE_BODY, responses=NO_IMAGE)
async def metadata(http: HttpRequest) -> Made:
    """What the file in the body says of how it was made."""
    data = await http.body()
    return await asyncio.to_thread(_made, data)


def _shrink(path: Path, target: Path) -> None:
    image = read_image(path).image
    image.thumbnail((SMALL, SMALL))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: image.save(file, format="WEBP", quality=90))


def _made(data: bytes) -> Made:
    found = metadata_in(data, "image")
    if found is None:
        return Made(tool=None, request={}, lora={}, model="", rest={})
    if isinstance(found, Foreign):
        return Made(tool=found.tool, request=dict(found.fields), lora={}, model=found.model, rest=found.rest)
    lora = found.settings.get("lora")
    return Made(
        tool="kandinsky",
        request=plain(found.request),
        lora=lora if isinstance(lora, dict) else {},
        model=found.model,
        rest={},
    )
