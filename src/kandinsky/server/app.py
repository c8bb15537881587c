"""The server as an ASGI application."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from kandinsky.core.errors import KandinskyError
from kandinsky.core.metadata import library_version
from kandinsky.jobs import store
from kandinsky.server import (
    a1111,
    gallery,
    jobs_api,
    live,
    openai_batches,
    openai_files,
    openai_images,
    page,
    session,
)
from kandinsky.server.documents import Documents
from kandinsky.server.errors import ApiError, api_error
from kandinsky.server.gate import Gate
from kandinsky.server.openai_batches import Batches
from kandinsky.server.openapi import answers, describe
from kandinsky.server.service import Service
from kandinsky.server.session import Sessions
from kandinsky.server.settings import ServerSettings


def make_app(settings: ServerSettings) -> FastAPI:
    """The application of these settings; its workers run while it does."""
    service, files = Service(settings), Documents(settings.data / "files", "file-")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.opened(), Batches(service, files, settings.webhook).opened() as batches:
            app.state.batches = batches
            yield

    app = FastAPI(title="kandinsky", version=library_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.files = service, files
    app.state.sessions = sessions = Sessions(settings)
    app.include_router(openai_images.router)
    app.include_router(openai_files.router)
    app.include_router(openai_batches.router)
    app.include_router(jobs_api.router)
    app.include_router(a1111.router)
    app.include_router(live.router)
    app.include_router(gallery.router)
    app.include_router(session.router)
    app.include_router(page.router)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/readyz", readyz)
    app.add_api_route("/metrics", metrics, response_class=PlainTextResponse, responses=answers(None, "text/plain"))
    app.add_exception_handler(ApiError, _api)
    app.add_exception_handler(KandinskyError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    describe(app)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics, sessions=sessions)
    return app


async def healthz() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok", "version": library_version()}


async def readyz(http: HttpRequest) -> Response:
    """Whether it has drawn an image since it began."""
    service = openai_images.service_of(http)
    # Whoever has no token hears whether, and not what or why.
    known = http.scope["state"]["owner"] is not None
    if not service.ready:
        said = {"status": "waiting", **({"reason": service.why_not} if known else {})}
        return JSONResponse(said, 503, {"retry-after": "2"})
    return JSONResponse({"status": "ready", **({"model": service.settings.model} if known else {})})


async def metrics(http: HttpRequest) -> Response:
    """Numbers for Prometheus: jobs by state, seconds by stage, failures, requests."""
    service = openai_images.service_of(http)
    counts = await service.on_store(store.counts)
    text = service.metrics.text({str(state): count for state, count in counts.items()}, service.ready)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _api(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _ours(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, KandinskyError)
    return api_error(error).response()


async def _invalid(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(one) for one in first["loc"][1:]) or None
    return ApiError(400, f"{name or 'body'}: {first['msg']}.", name, "invalid_value").response()


async def _http(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405 and (methods := _methods(http)):
        # A path has a route for each method, of which the first alone was asked.
        headers["allow"] = ", ".join(sorted(methods))
    return ApiError(error.status_code, str(error.detail), code="http_error", headers=headers).response()


def _methods(http: HttpRequest) -> set[str]:
    """The methods that the path of a request has."""
    found = set[str]()
    for path, operations in http.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)), http.url.path):
            found |= {method.upper() for method in operations}
    return found
