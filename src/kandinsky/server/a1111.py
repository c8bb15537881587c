"""The part of AUTOMATIC1111's API that plugins use. What Kandinsky has no equivalent for is a 422 that names it.

Source: the routes and models of stable-diffusion-webui 1.10 (`/sdapi/v1`), as its clients call them.
"""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from PIL import ImageOps
from pydantic import BaseModel

from kandinsky.core.errors import RequestError
from kandinsky.core.metadata import Metadata, read_metadata, summary
from kandinsky.core.requests import Request
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.jobs import store
from kandinsky.jobs.store import Job
from kandinsky.server.a1111_models import (
    LORA,
    SETTINGS,
    USUAL_BLURS,
    AskedImage,
    AskedInfo,
    AskedText,
    ImageFields,
    TextFields,
)
from kandinsky.server.a1111_prompts import as_weights
from kandinsky.server.bodies import read_fields, read_json
from kandinsky.server.errors import ApiError, of_job
from kandinsky.server.openai_images import service_of
from kandinsky.server.openapi import json_body
from kandinsky.server.service import Service
from kandinsky.server.uploads import data_url, metadata_in, received

Fields = TypeVar("Fields", bound=BaseModel)
router = APIRouter(prefix="/sdapi/v1")


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class Drawn(BaseModel):
    """Images in base64, what was asked, and in `info` a JSON text of their seeds."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


@router.post("/txt2img", openapi_extra=json_body(AskedText))
async def txt2img(http: HttpRequest) -> Drawn:
    """Draws images from a prompt."""
    return await _draw(http, _read(AskedText, await read_json(http)), {})


@router.post("/img2img", openapi_extra=json_body(AskedImage))
async def img2img(http: HttpRequest) -> Drawn:
    """Changes an image, everywhere or where a mask is white."""
    asked = _read(AskedImage, await read_json(http))
    if asked.mask is None:
        _check_maskless(asked)
    inputs, owner = service_of(http).inputs, str(http.scope["state"]["owner"])
    image = await received(_decoded(asked.init_images[0], "init_images"), "init_images")
    picture = await asyncio.to_thread(inputs.keep, image, owner)
    fields: dict[str, Any] = {"image": picture, "strength": asked.denoising_strength or 0.75}
    if asked.mask is not None:
        shown = (await received(_decoded(asked.mask, "mask"), "mask")).convert("L").resize(picture.size)
        if asked.inpainting_mask_invert:
            shown = ImageOps.invert(shown)
        fields["mask"] = await asyncio.to_thread(lambda: inputs.keep(shown, owner, mask=True))
        fields["strength"] = asked.denoising_strength or 1.0
        fields |= {"paste_back": True, "mask_blur": asked.mask_blur}
    return await _draw(http, asked, fields)


@router.get("/progress")
async def progress(http: HttpRequest) -> dict[str, Any]:
    """How far the owner's oldest running job is."""
    running = await _open(http)
    said = running[-1].progress if running else None
    step, total = (said.get("step", 0), said.get("total", 0)) if isinstance(said, dict) else (0, 0)
    done = step / total if isinstance(step, int) and isinstance(total, int) and total else 0.0
    took = time.time() - (running[-1].started or time.time()) if running else 0.0
    left = took / done - took if done else 0.0
    state = {"job_count": len(running), "sampling_step": step, "sampling_steps": total, "interrupted": False}
    return {"progress": done, "eta_relative": max(0.0, left), "state": state, "current_image": None, "textinfo": None}


@router.post("/interrupt")
async def interrupt(http: HttpRequest) -> dict[str, Any]:
    """Cancels what the owner has running."""
    names = [job.name or "" for job in await _open(http)]
    await service_of(http).cancel(names)
    return {}


@router.get("/options")
async def options(http: HttpRequest) -> dict[str, Any]:
    """The settings that there are: the model."""
    return {"sd_model_checkpoint": service_of(http).settings.model}


@router.post("/options", openapi_extra=_body(SETTINGS))
async def set_options(http: HttpRequest) -> None:
    """Takes the settings that are so already."""
    await _check_settings(http, await read_json(http))


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    """The samplers."""
    return [{"name": name, "aliases": [name], "options": {}} for name in SAMPLERS]


@router.get("/sd-models")
async def sd_models(http: HttpRequest) -> list[dict[str, Any]]:
    """The model."""
    name = service_of(http).settings.model
    return [{"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}]


@router.get("/loras")
async def loras(http: HttpRequest) -> list[dict[str, Any]]:
    """The adapters that `<lora:NAME:SCALE>` in a prompt may name."""
    return [{"name": name, "alias": name, "path": "", "metadata": {}} for name in service_of(http).offered]


@router.post("/png-info", openapi_extra=json_body(AskedInfo))
async def png_info(http: HttpRequest) -> dict[str, Any]:
    """What the file of an image says of how it was made."""
    data = _decoded(_read(AskedInfo, await read_json(http)).image, "image")
    found = await asyncio.to_thread(metadata_in, data, "image")
    if not isinstance(found, Metadata):
        return {"info": "", "items": {}, "parameters": {}}
    return {"info": summary(found), "items": {}, "parameters": found.request}


async def _draw(http: HttpRequest, asked: TextFields | ImageFields, fields: Mapping[str, Any]) -> Drawn:
    service = service_of(http)
    await _check_settings(http, asked.override_settings or {})
    request, lora = _request(asked, fields)
    names = await service.submit(request, str(http.scope["state"]["owner"]), lora=lora)
    jobs = await asyncio.gather(*(service.ended(name) for name in names))
    images, seeds, texts = [], [], []
    for job in jobs:
        path, seed = _image_of(service, job)
        images.append(base64.b64encode(await asyncio.to_thread(path.read_bytes)).decode())
        seeds.append(seed)
        texts.append(summary(await asyncio.to_thread(read_metadata, path)))
    info = {"prompt": asked.prompt, "seed": seeds[0], "all_seeds": seeds, "infotexts": texts}
    given = asked.model_dump(exclude_unset=True, exclude={"init_images", "mask"})
    return Drawn(images=images, parameters=given, info=json.dumps(info, ensure_ascii=False))


def _image_of(service: Service, job: Job) -> tuple[Path, object]:
    if job.state == "cancelled":
        raise ApiError(409, "It was interrupted.", code="cancelled")
    if job.state != "done" or not isinstance(job.result, list) or not isinstance(job.result[0], dict):
        raise of_job(job.error)
    return service.images / str(job.result[0]["file"]), job.result[0].get("seed")


def _request(asked: TextFields | ImageFields, fields: Mapping[str, Any]) -> tuple[Request, dict[str, float] | None]:
    """What is asked as a request, and the adapters that the prompt names with their scales: None for the usual ones."""
    samplers = {name for name in (asked.sampler_name, asked.sampler_index) if name}
    if len(samplers) > 1:
        raise _refused("sampler_index", "sampler_name is another")
    found = {one[1]: float(one[2] or 1) for one in LORA.finditer(asked.prompt)}
    prompt = LORA.sub("", asked.prompt).strip() if found else asked.prompt
    own: dict[str, Any] = {
        "prompt_weights": True,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "width": asked.width,
        "height": asked.height,
        "eta": asked.eta,
        "sampler": next(iter(samplers), None),
        "seed": None if asked.seed == -1 else asked.seed,
        "count": asked.batch_size * asked.n_iter,
    }
    try:
        texts: dict[str, Any] = {"prompt": as_weights(prompt, "prompt")}
        if asked.negative_prompt is not None:
            texts["negative_prompt"] = as_weights(asked.negative_prompt, "negative_prompt")
        request = Request(**{**own, **texts, **fields})
    except RequestError as error:
        raise ApiError(422, f"{error.message} {error.hint}".strip(), code="invalid_value") from error
    return request, found or None


def _read(kind: type[Fields], given: Mapping[str, Any]) -> Fields:
    """The fields of a request, checked; ApiError 422 names the first one at fault."""
    try:
        found: Fields = read_fields(kind, given, strict=True)
    except ApiError as error:
        raise ApiError(422, error.message, error.param, error.code) from error
    return found


async def _check_settings(http: HttpRequest, given: Mapping[str, Any]) -> None:
    """ApiError 422 for the first setting that is not so already."""
    have = await options(http)
    for name, value in given.items():
        if name not in have or have[name] != value:
            raise _refused(name, "the server was started with its settings")


def _check_maskless(asked: ImageFields) -> None:
    """ApiError 422 for what acts on a mask alone; what clients send of it by default asks for nothing."""
    if asked.mask_blur not in USUAL_BLURS:
        raise _refused("mask_blur", "it softens the edge of a mask, and no mask is given")
    if asked.inpainting_mask_invert:
        raise _refused("inpainting_mask_invert", "no mask is given")


def _refused(name: str, why: str) -> ApiError:
    return ApiError(422, f"{name}: {why}.", name, "unsupported")


def _decoded(text: object, param: str) -> bytes:
    if isinstance(text, str) and text.startswith("data:"):
        return data_url(text, param)
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"{param} is no base64.", param, "invalid_value") from error


async def _open(http: HttpRequest) -> list[Job]:
    owner = str(http.scope["state"]["owner"])
    return await service_of(http).on_store(store.found, owner, ("running",), "", False, None, 200)
