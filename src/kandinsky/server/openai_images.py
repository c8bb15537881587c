"""The OpenAI Images API over the queue, as its official client speaks it."""

import asyncio
import base64
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.requests import Request
from kandinsky.jobs.store import Job
from kandinsky.server.bodies import is_json, read_fields, read_form, read_json
from kandinsky.server.documents import Documents
from kandinsky.server.errors import ApiError, of_job
from kandinsky.server.openai_files import IMAGES, content_of, files_of
from kandinsky.server.openai_models import (
    DRAWN,
    MASK,
    MOST_STEPS,
    NAMED,
    Asked,
    AskedEdit,
    AskedPrompt,
    Model,
    Models,
    Usage,
)
from kandinsky.server.openapi import form_body, joined, json_body
from kandinsky.server.service import Service
from kandinsky.server.telling import Told
from kandinsky.server.uploads import data_url, of_alpha, received

if TYPE_CHECKING:
    from PIL.Image import Image

router = APIRouter(prefix="/v1")
QUALITIES = {"low": 0.4, "medium": 0.7, "high": 1.0, "xhigh": 1.5, "max": 2.0, "standard": 1.0, "hd": 1.5}
"""Steps for a quality, as a share of the model's own; "auto" is these."""
FIDELITIES = {"high": 0.35, "low": 0.7}
"""How much an edit without a mask changes."""
OWN = (
    "negative_prompt",
    "seed",
    "steps",
    "guidance_scale",
    "sampler",
    "strength",
    "outpaint",
    "paste_back",
    "mask_blur",
    "prompt_weights",
    "prior_steps",
    "prior_guidance_scale",
)
"""Fields of a Kandinsky request, which clients give as `extra_body`."""
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


Kind: TypeAlias = Literal["image_generation", "image_edit"]
"""What the events of a stream are called."""


@dataclass(frozen=True)
class Work:
    """A request on its way: its jobs, what was asked, and the name of its events."""

    names: Sequence[str]
    asked: Asked
    request: Request
    kind: Kind
    coming_again: bool = False


def service_of(http: HttpRequest) -> Service:
    """The service of the server that a request came to."""
    found: Service = http.app.state.service
    return found


@router.post("/images/generations", openapi_extra=json_body(AskedPrompt), responses=DRAWN)
async def generations(http: HttpRequest) -> Response:
    """Draws images from a prompt."""
    asked = read_fields(AskedPrompt, await read_json(http), strict=True)
    return await _answer(http, asked, "image_generation", prompt=asked.prompt)


@router.post(
    "/images/edits",
    openapi_extra=joined(
        form_body(AskedEdit, {"image": True, "mask": False}), json_body(AskedEdit, images=NAMED, mask=MASK)
    ),
    responses=DRAWN,
)
async def edits(http: HttpRequest) -> Response:
    """Changes an image, everywhere or where a mask is transparent."""
    service, owner = service_of(http), str(http.scope["state"]["owner"])
    if is_json(http):
        asked, fields = await edit_of(service, files_of(http), owner, await read_json(http))
    else:
        given, files = await read_form(http)
        images, masks = files.pop("image", []), files.pop("mask", [])
        if files:
            name = next(iter(files))
            raise ApiError(400, f"There is no use for the file {name[:40]!r}.", name[:40], "unknown_parameter")
        asked = read_fields(AskedEdit, given)
        fields = await _edited(service, owner, asked, images, masks)
    return await _answer(http, asked, "image_edit", **fields)


async def edit_of(
    service: Service, files: Documents, owner: str, given: dict[str, Any]
) -> tuple[AskedEdit, dict[str, Any]]:
    """An edit in JSON, whose images are data URLs, ids of the owner's files, or addresses of hosts that are allowed."""
    images = await _named(service, files, owner, given.pop("images", None), "images")
    masks = await _named(service, files, owner, given.pop("mask", None), "mask")
    asked: AskedEdit = read_fields(AskedEdit, given, strict=True)
    return asked, await _edited(service, owner, asked, images, masks)


async def _edited(
    service: Service, owner: str, asked: AskedEdit, images: Sequence[bytes], masks: Sequence[bytes]
) -> dict[str, Any]:
    if len(images) != 1 or len(masks) > 1:
        message = f"{len(images)} images and {len(masks)} masks were given; one is edited, with at most one."
        raise ApiError(400, message, "image", "invalid_value")
    _check_fidelity(asked, has_mask=bool(masks))
    picture = await asyncio.to_thread(service.inputs.keep, await received(images[0], "image"), owner)
    fields: dict[str, Any] = {"prompt": asked.prompt, "image": picture}
    if masks:
        mask = await received(masks[0], "mask")
        fields["mask"] = await asyncio.to_thread(_mask, mask, picture, service, owner)
    elif asked.strength is None and asked.outpaint is None:
        fields["strength"] = FIDELITIES[asked.input_fidelity or "low"]
    return fields


def _check_fidelity(asked: AskedEdit, *, has_mask: bool) -> None:
    """ApiError for `input_fidelity` where something else says how much an edit changes."""
    others = {"mask": has_mask, "strength": asked.strength is not None, "outpaint": asked.outpaint is not None}
    for name in (name for name, given in others.items() if given and asked.input_fidelity is not None):
        message = f"input_fidelity does not act together with {name}; leave one of them out."
        raise ApiError(400, message, "input_fidelity", "invalid_value")


@router.post("/images/variations", openapi_extra=form_body(Asked, {"image": True}), responses=DRAWN)
async def variations(http: HttpRequest) -> Response:
    """Draws what an image shows anew."""
    service, owner = service_of(http), str(http.scope["state"]["owner"])
    given, files = await read_form(http)
    asked = read_fields(Asked, given)
    images = files.pop("image", [])
    if len(images) != 1 or files:
        raise ApiError(400, "One image is needed, and no other file.", "image", "invalid_value")
    image = await received(images[0], "image")
    picture = await asyncio.to_thread(service.inputs.keep, image, owner)
    return await _answer(http, asked, "image_generation", prompt=picture)


@router.get("/models")
async def models(http: HttpRequest) -> Models:
    """The model of this server."""
    return Models(data=[Model(id=service_of(http).settings.model)])


@router.get("/models/{name:path}")
async def model(http: HttpRequest, name: str) -> Model:
    """The model of that name."""
    _check_model(service_of(http), name)
    return Model(id=name)


def _check_model(service: Service, name: str | None) -> None:
    if name not in (None, service.settings.model):
        message = f"There is no model {str(name)[:100]!r} here; this is {service.settings.model}."
        raise ApiError(404, message, "model", "model_not_found")


async def _answer(
    http: HttpRequest, asked: Asked, kind: Literal["image_generation", "image_edit"], **fields: Any
) -> Response:
    service = service_of(http)
    _check_model(service, asked.model)
    request = request_of(service, asked, fields)
    key = key_of(http)
    owner = str(http.scope["state"]["owner"])
    heard = asyncio.Queue[Told]() if asked.stream else None
    names = await service.submit(
        request, owner, previews=asked.partial_images, key=key, again=True, lora=asked.lora, heard=heard
    )
    work = Work(names, asked, request, kind, key is not None)
    if heard is not None:
        return StreamingResponse(_events(http, service, work, heard), media_type="text/event-stream")
    done = asyncio.create_task(_all(service, names))
    gone = asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            return Response(status_code=499)
        return JSONResponse(await _body(http, service, work, done.result()))
    finally:
        gone.cancel()
        if not done.done() or done.cancelled() or done.exception() is not None:
            # Nobody waits any more: the client has gone, or the server stops.
            done.cancel()
            await asyncio.gather(done, return_exceptions=True)
            service.left(names, coming_again=work.coming_again)


def request_of(service: Service, asked: Asked, fields: Mapping[str, Any]) -> Request:
    """What is asked as a request; ApiError that names the field that cannot be."""
    own = {name: value for name in OWN if (value := getattr(asked, name, None)) is not None}
    if asked.quality != "auto":
        usual = int(service.outline.model.defaults["steps"])
        own.setdefault("steps", max(1, min(MOST_STEPS, round(usual * QUALITIES[asked.quality]))))
    if asked.size != "auto":
        width, height = map(int, asked.size.split("x"))
        own |= {"width": width, "height": height}
    try:
        return Request(**{**fields, **own, "count": asked.n})
    except RequestError as error:
        first = error.message.split()[0].strip("'\"")
        param = {"width": "size", "height": "size"}.get(first, first if first in own else None)
        raise ApiError(400, f"{error.message} {error.hint}".strip(), param, "invalid_value") from error


def key_of(http: HttpRequest) -> str | None:
    """What makes a request the same as one before: the owner, the route and the client's idempotency key."""
    given = http.headers.get("idempotency-key")
    if given is None:
        return None
    if not 1 <= len(given) <= 255:
        raise ApiError(400, "An idempotency key has 1 to 255 characters.", "idempotency-key", "invalid_value")
    owner = str(http.scope["state"]["owner"])
    return hashlib.sha256(json.dumps([owner, http.url.path, given]).encode()).hexdigest()


async def _all(service: Service, names: Sequence[str]) -> list[Job]:
    return await asyncio.gather(*(service.ended(name) for name in names))


async def _gone(http: HttpRequest) -> None:
    """Returns when the client has gone."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _body(http: HttpRequest, service: Service, work: Work, jobs: Sequence[Job]) -> dict[str, object]:
    data = [await datum(service, work.asked, job, http) for job in jobs]
    return {"created": int(time.time()), "data": data, **_said(work), "usage": Usage().model_dump()}


async def datum(service: Service, asked: Asked, job: Job, http: HttpRequest | None = None) -> dict[str, object]:
    """An image as the API has it; ApiError for a job that failed or was cancelled."""
    if job.state != "done":
        raise of_job(job.error) if job.state == "failed" else ApiError(409, "It was cancelled.", code="cancelled")
    assert isinstance(job.result, list)
    (said,) = job.result
    assert isinstance(said, dict)
    if http is not None and asked.response_format == "url":
        return {"url": str(http.url_for("image", name=job.name)), "seed": said["seed"], "id": job.name}
    data = await asyncio.to_thread(_in_format, (service.images / str(said["file"])).read_bytes(), asked)
    return {"b64_json": base64.b64encode(data).decode(), "seed": said["seed"], "id": job.name}


def _in_format(png: bytes, asked: Asked) -> bytes:
    if asked.output_format == "png":
        return png
    from PIL import Image

    made = io.BytesIO()
    Image.open(io.BytesIO(png)).save(made, FORMATS[asked.output_format], quality=max(1, asked.output_compression))
    return made.getvalue()


def _said(work: Work) -> dict[str, object]:
    quality = work.asked.quality if work.asked.quality in ("low", "medium", "high") else "auto"
    return {
        "size": work.asked.size,
        "quality": quality,
        "background": "opaque",
        "output_format": work.asked.output_format,
    }


async def _events(http: HttpRequest, service: Service, work: Work, heard: asyncio.Queue[Told]) -> AsyncIterator[str]:
    """The stream of a request: previews of its first image as partial images, then each image when it is done."""
    waiting = set(work.names)
    try:
        for name in work.names:
            index = 0
            async for told in service.follow(name, heard if name == work.names[0] else None):
                if told.kind == "preview":
                    yield _event(
                        f"{work.kind}.partial_image",
                        work,
                        _preview(told.values, told.data, work.asked),
                        partial_image_index=index,
                    )
                    index += 1
            job = await service.job(name)
            waiting.discard(name)
            try:
                made = await datum(service, work.asked, job, http)
            except ApiError as error:
                yield f"data: {json.dumps(error.body())}\n\n"
                return
            yield _event(
                f"{work.kind}.completed", work, str(made.pop("b64_json", "")), usage=Usage().model_dump(), **made
            )
    except ApiError as error:  # the server stops
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        if waiting:
            service.left(list(waiting), coming_again=work.coming_again)


def _preview(values: Mapping[str, Any], data: bytes, asked: Asked) -> str:
    from PIL import Image

    made = io.BytesIO()
    image = Image.frombytes("RGB", (values["width"], values["height"]), data)
    image.save(made, FORMATS[asked.output_format])
    return base64.b64encode(made.getvalue()).decode()


def _event(kind: str, work: Work, image: str, **more: object) -> str:
    values = {"type": kind, "b64_json": image, "created_at": int(time.time()), **_said(work), **more}
    return f"event: {kind}\ndata: {json.dumps(values)}\n\n"


async def _named(service: Service, files: Documents, owner: str, given: object, param: str) -> list[bytes]:
    """The bytes of images that JSON names: by data URLs, by ids of files, or by addresses of hosts that are allowed."""
    found = []
    for one in given if isinstance(given, list) else [given]:
        match one:
            case None:
                continue
            case {"image_url": str(address), **rest} if not rest:
                found.append(await _at(service, address, param))
            case {"file_id": str(name), **rest} if not rest:
                found.append(await asyncio.to_thread(content_of, files, owner, name, IMAGES))
            case _:
                message = f"{param} is like {{'image_url': 'data:...'}} or {{'file_id': 'file-...'}}."
                raise ApiError(400, message, param, "invalid_value")
    return found


async def _at(service: Service, address: str, param: str) -> bytes:
    if address.startswith("data:") or not service.settings.fetch_from:
        return await asyncio.to_thread(data_url, address, param)
    return await asyncio.to_thread(service.fetcher.get, address, param)


def _mask(mask: "Image", picture: Picture, service: Service, owner: str) -> Picture:
    if mask.size != picture.size:
        raise ApiError(400, "mask has not the size of the image.", "mask", "invalid_value")
    return service.inputs.keep(of_alpha(mask), owner, mask=True)
