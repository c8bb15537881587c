"""The description of the API: what FastAPI finds out, and what it cannot: errors, tokens, and bodies that we read."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
SAID = {
    400: "What was sent cannot be.",
    401: "No valid token was given.",
    403: "The host or the origin is not allowed.",
    404: "There is no such thing of the owner's.",
    408: "The body came too slowly.",
    409: "It was cancelled, or has not ended.",
    413: "The body, or what is in it, is too large.",
    422: "Kandinsky has no equivalent for a field.",
    429: "Too much is queued, or too many wrong tokens came; retry-after says when to come again.",
    500: "It failed here; the log says why.",
    503: "The server is busy or stopping; retry-after says when to come again.",
    507: "There is not enough memory for the image, or no room on the disk.",
}
OPEN = ("/healthz", "/readyz", "/api/session")
EVERYWHERE = (400, 401, 403, 429, 503)
"""What the gate may answer to every request."""
DRAWING = (
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
)
KEEPING = ("/api/inputs", "/api/jobs", "/v1/files", "/v1/batches")
"""What writes files."""
NAMING = ("/v1/batches", "/api/jobs", "/api/queue")
"""What names other things in its body."""
IMAGE = {"type": "string", "format": "binary"}
KINDS = "image/png, image/jpeg, image/webp"
STREAMED = {
    "anyOf": [
        {"required": ["stream"], "properties": {"stream": {"const": True}}},
        {"properties": {"partial_images": {"enum": [0, None]}}},
    ]
}
"""Partial images are parts of a stream."""


def describe(app: FastAPI) -> None:
    """Gives an application its description, made when it is first asked for."""

    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = ERROR
    parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return found


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    codes = {400, 403, 503} if path in OPEN[:2] else set(EVERYWHERE)
    if "{" in path:
        codes |= {404}
    if method in ("post", "patch", "put"):
        codes |= {408, 413}
    if path in NAMING and method in ("post", "put"):
        codes |= {404}
    if path in DRAWING:
        codes |= {404, 409, 500, 507}
    if path in KEEPING and method == "post":
        codes |= {507}
    if path.startswith("/sdapi/") and method == "post":
        codes |= {422}
    for code in sorted(codes):
        answers.setdefault(str(code), {"description": SAID[code]})
    for code, answer in answers.items():
        if int(code) >= 400 and not answer.get("content"):
            answer["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    if path not in OPEN:
        operation["security"] = [{"token": []}]


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model with no part elsewhere."""
    found = model.model_json_schema()
    parts = found.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            return whole(parts[name]) if name in parts else {key: whole(one) for key, one in value.items()}
        return [whole(one) for one in value] if isinstance(value, list) else value

    made: dict[str, Any] = whole(found)
    return made


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model whose fields may be null where they may be left out."""
    found = schema_of(model)
    needed = found.get("required", [])
    for name, field in found["properties"].items():
        field.pop("title", None)
        if name not in needed and {"type": "null"} not in field.get("anyOf", []):
            found["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    return found


def json_body(model: type[BaseModel], **more: Any) -> dict[str, Any]:
    """A body in JSON, for `openapi_extra`; `more` are properties that the model leaves to others."""
    schema = fields_of(model)
    schema["properties"] |= more
    schema |= STREAMED if "partial_images" in schema["properties"] else {}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_body(
    model: type[BaseModel] | None, files: Mapping[str, bool], fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A form with files, of which some are needed, for `openapi_extra`."""
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    if model is not None:
        own = schema_of(model)
        schema["properties"] = {name: _without_null(field) for name, field in own["properties"].items()}
        schema["required"] = list(own.get("required", []))
    schema["properties"] |= dict(fields or {}) | dict.fromkeys(files, IMAGE)
    schema |= STREAMED if "partial_images" in schema["properties"] else {}
    schema["required"] += [*(fields or {}), *(name for name, needed in files.items() if needed)]
    encoding = {name: {"contentType": KINDS} for name in files}
    content = {"multipart/form-data": {"schema": schema, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": content}}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    kinds = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    bare = {name: value for name, value in field.items() if name not in ("anyOf", "default", "title")}
    return bare | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def numbers(least: int, most: int) -> str:
    """A regular expression for the whole numbers from one, 0 or more, to another, without zeros in front."""
    lengths = range(len(str(least)), len(str(most)) + 1)
    bounds = [(max(least, 10 ** (n - 1) if n > 1 else 0), min(most, 10**n - 1)) for n in lengths]
    return f"({'|'.join(_between(str(low), str(high)) for low, high in bounds)})"


def _between(low: str, high: str) -> str:
    """As `numbers`, for two numbers of as many digits, of which the first may be 0."""
    if not low:
        return ""
    rest = len(low) - 1
    if low[0] == high[0]:
        return low[0] + _between(low[1:], high[1:])
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return f"[{low[0]}-{high[0]}]" + (rf"\d{{{rest}}}" if rest else "")
    middle = _between(str(int(low[0]) + 1) + "0" * rest, str(int(high[0]) - 1) + "9" * rest)
    ends = [low[0] + _between(low[1:], "9" * rest), high[0] + _between("0" * rest, high[1:])]
    return f"({'|'.join(ends + ([middle] if int(high[0]) - int(low[0]) > 1 else []))})"


def joined(*bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Bodies of which a request has one."""
    content = {kind: said for body in bodies for kind, said in body["requestBody"]["content"].items()}
    return {"requestBody": {"required": True, "content": content}}


def answers(
    model: type[BaseModel] | None, *others: str, description: str = "Success."
) -> dict[int | str, dict[str, Any]]:
    """What a route answers that makes its answer itself: an object of a model, or other kinds of content."""
    content: dict[str, Any] = {name: {} for name in others}
    if model is not None:
        content["application/json"] = {"schema": schema_of(model)}
    return {200: {"description": description, "content": content}}
