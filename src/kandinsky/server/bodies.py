"""Bodies of requests: JSON objects and forms, and models that check what is in them."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import IO, Any

from fastapi import Request as HttpRequest
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from kandinsky.core.untrusted_text import UnsoundTextError, parse_json
from kandinsky.server.errors import ApiError

MOST_TEXT = 2**20
"""Bytes of a field of a form."""


def is_json(http: HttpRequest) -> bool:
    """Whether the body of a request says that it is JSON."""
    return http.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def whole(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of JSON, which has no whole numbers: 1.0 is 1."""

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return whole(value)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return {name: one(value) for name, value in given.items()}


def read_fields(kind: type[Any], given: Mapping[str, Any], *, strict: bool = False) -> Any:
    """The fields of a request, checked; ApiError names the first one at fault. If `strict`, texts are no numbers.

    A field that is null was not given, where there is a field of that name.
    """
    fields = kind.model_fields
    said = whole({name: value for name, value in given.items() if value is not None or name not in fields})
    try:
        return kind.model_validate(said, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else {"partial_images": "partial_images"}.get(first["type"])
        known = first["type"] != "extra_forbidden"
        message = f"{name}: {first['msg'].removeprefix('Value error, ')}." if known else f"{name} has no meaning here."
        raise ApiError(400, message, name, "invalid_value" if known else "unknown_parameter") from error


async def read_json(http: HttpRequest) -> dict[str, Any]:
    """The object of a body in JSON; ApiError for another."""
    if not is_json(http):
        raise ApiError(400, "The content-type is not application/json.", code="invalid_json")
    try:
        found = parse_json(await http.body(), finite=True)
    except UnsoundTextError as error:
        raise ApiError(400, f"The body is no JSON: {error}.", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "The body is no JSON object.", code="invalid_json")
    return whole(found)


@contextlib.asynccontextmanager
async def _form(http: HttpRequest) -> AsyncIterator[FormData]:
    if not http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(400, "The content-type is not multipart/form-data.", code="invalid_form")
    try:
        form = await http.form(max_files=32, max_fields=100, max_part_size=MOST_TEXT)
    except (HTTPException, FormParserError) as error:
        raise ApiError(400, "The body is no multipart form, or has too many parts.", code="invalid_form") from error
    try:
        yield form
    finally:
        await form.close()


async def read_form(http: HttpRequest) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The fields and files of a form; `name[]` is one of several of `name`, `name[key]` a value of an object."""
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    async with _form(http) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            else:
                _take(fields, name, value)
    return fields, files


@contextlib.asynccontextmanager
async def read_upload(http: HttpRequest, name: str) -> AsyncIterator[tuple[dict[str, Any], IO[bytes]]]:
    """The fields of a form and its one file, which is held on the disk where it is large."""
    fields: dict[str, Any] = {}
    files = []
    async with _form(http) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append((key, value))
            else:
                _take(fields, key, value)
        if [key for key, _ in files] != [name]:
            raise ApiError(400, f"One file is needed, called {name}.", name, "invalid_value")
        yield fields, files[0][1].file


def _take(fields: dict[str, Any], name: str, value: str) -> None:
    stem, bracket, key = name.removesuffix("]").partition("[")
    within = bool(bracket and stem and key and name.endswith("]"))
    inside = fields.setdefault(stem, {}) if within else fields
    name_ = key if within else name
    if not isinstance(inside, dict) or name_ in inside:
        raise ApiError(400, f"{name[:40]} is given twice.", name[:40], "invalid_value")
    inside[name_] = value
