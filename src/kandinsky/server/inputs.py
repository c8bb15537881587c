"""Images that the owner of a job has sent before, and requests that name them."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture, read_image, read_mask
from kandinsky.core.prompts import PromptLike, mix
from kandinsky.core.requests import Request, file_fields
from kandinsky.server.errors import ApiError
from kandinsky.server.service import Service

_NAME = {"type": "string", "maxLength": 64}
_IMAGE = {
    "type": "object",
    "oneOf": [{"required": ["sha256"]}, {"required": ["job"]}],
    "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "job": _NAME},
    "additionalProperties": False,
}
_TEXT = {"type": "string"}
_MIX = {
    "type": "object",
    "required": ["mix", "weights"],
    "properties": {
        "mix": {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _IMAGE]}},
        "weights": {"type": "array", "minItems": 1, "items": {"type": "number"}},
    },
    "additionalProperties": False,
}
_PROMPT = {"anyOf": [_TEXT, _MIX, _IMAGE]}


def request_schema() -> dict[str, Any]:
    """The schema of a request as HTTP takes it: the declaration's, with images as references."""
    found: dict[str, Any] = {}
    for name, field in Request.model_fields.items():
        if name == "prompt":
            found[name] = {"anyOf": [*_PROMPT["anyOf"], {"type": "array", "minItems": 1, "items": _PROMPT}]}
        elif name in file_fields():
            found[name] = {"anyOf": [_IMAGE, {"type": "null"}]}
        else:
            found[name] = _schema_of(Annotated[field.annotation, *field.metadata])
    return {"type": "object", "required": ["prompt"], "properties": found, "additionalProperties": False}


_LIMITS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _schema_of(annotation: Any) -> dict[str, Any]:
    """The schema of a field, whole in itself: what it refers to stands in its place."""
    found = TypeAdapter(annotation).json_schema()
    shared = found.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return whole(shared[value["$ref"].rpartition("/")[2]])
        return {_LIMITS.get(name, name): whole(one) for name, one in value.items()}

    made: dict[str, Any] = whole(found)
    return made


def input_file(service: Service, owner: str, name: str) -> Path:
    """The file of an image that an owner has sent; ApiError 404 where there is none."""
    path = service.inputs.find(owner, name)
    if path is None:
        raise ApiError(404, "This image was not sent here, or too long ago; send it again.", "sha256", "not_found")
    return path


async def read_request(service: Service, owner: str, given: dict[str, Any]) -> Request:
    """What is asked as a request; ApiError for what cannot be, and for images that are not the owner's."""
    known = Request.model_fields
    fields = {name: value for name, value in given.items() if value is not None or name not in known}
    if "prompt" not in fields:
        raise ApiError(400, "request needs a prompt.", "request", "invalid_value")
    try:
        prompt = fields["prompt"]
        prompts = [await _prompt(service, owner, one) for one in (prompt if isinstance(prompt, list) else [prompt])]
        fields["prompt"] = prompts if isinstance(prompt, list) else prompts[0]
        for name in file_fields():
            if name in fields:
                fields[name] = await _picture(service, owner, fields[name], name, mask=name == "mask")
        return await asyncio.to_thread(lambda: Request(**fields))
    except RequestError as error:
        raise ApiError(400, f"{error.message} {error.hint}".strip(), "request", "invalid_value") from error


async def _prompt(service: Service, owner: str, given: object) -> PromptLike:
    if isinstance(given, str):
        return given
    if isinstance(given, dict) and set(given) == {"mix", "weights"} and isinstance(given["mix"], list):
        items = [one if isinstance(one, str) else await _picture(service, owner, one, "mix") for one in given["mix"]]
        return mix(items, given["weights"])
    return await _picture(service, owner, given, "prompt")


async def _picture(service: Service, owner: str, given: object, name: str, *, mask: bool = False) -> Picture:
    if not isinstance(given, dict) or len(given) != 1 or not isinstance(next(iter(given.values())), str):
        message = f"request.{name} is no image like {{'sha256': ...}} or {{'job': ...}}; no file of the server is read."
        raise ApiError(400, message, "request", "invalid_value")
    ((kind, value),) = given.items()
    if kind == "job":
        return await asyncio.to_thread(_of_file, service, owner, await drawn(service, owner, value), mask)
    if kind != "sha256":
        raise ApiError(400, f"request.{name} has sha256 or job.", "request", "invalid_value")
    # Kept anew: as a mask, what was sent as an image is other pixels, under another hash, by which it is repeated.
    return await asyncio.to_thread(_of_file, service, owner, input_file(service, owner, value), mask)


def _of_file(service: Service, owner: str, path: Path, mask: bool) -> Picture:
    return service.inputs.keep((read_mask if mask else read_image)(path).image, owner, mask=mask)


async def drawn(service: Service, owner: str, name: str) -> Path:
    """The image of a job that is done; ApiError 404 where there is none."""
    job = await service.job(name, owner)
    if job.state != "done" or not isinstance(job.result, list) or not isinstance(job.result[0], dict):
        raise ApiError(404, f"The job is {job.state}.", "id", "not_found")
    path = service.images / str(job.result[0]["file"])
    if not path.is_file():
        raise ApiError(404, "The image is gone.", "id", "not_found")
    return path
