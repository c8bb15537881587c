"""Who and what comes in: hosts, origins, tokens, sizes and speeds of bodies, and a number for each request.

Sources: incidents 10, 12, 18 and 19 of the security notes: bodies without an end, pages of other origins that reach a
server on the loopback by a name of theirs (DNS rebinding), traces in answers, tokens that are compared byte by byte.
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kandinsky.core.errors import KandinskyError
from kandinsky.server.errors import ApiError, api_error, disk_is_full, full_disk
from kandinsky.server.logs import LOGGER
from kandinsky.server.metrics import Metrics
from kandinsky.server.page import is_page
from kandinsky.server.session import LOGIN, Sessions, cookie_of
from kandinsky.server.settings import ServerSettings

log = logging.getLogger(LOGGER)
OPEN = ("/healthz", "/readyz")
"""Paths for which no token is asked."""
SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SMALL = 2**20
"""Bytes of a body that holds no image."""
WITHOUT_IMAGES = ("/v1/images/generations", "/v1/batches", "/sdapi/v1/txt2img", "/sdapi/v1/options")
FILES = "/v1/files"
BODY_SECONDS = 30.0
SLOWEST = 16 * 1024
"""Bytes a second that a body must come with after its first seconds."""
GUESSING = 60.0
"""Seconds in which wrong tokens of an address are counted; right ones always pass."""
ADDRESSES = 10_000


@dataclass(eq=False)
class Passing:
    """A request on its way through: what was read of its body, and what it was refused for meanwhile."""

    number: str
    began: float
    read: int = 0
    whole: bool = False
    begun: bool = False
    status: int = 0
    refused: ApiError | None = None


class Gate:
    """The outermost layer of the server."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, sessions: Sessions) -> None:
        self.app, self.settings, self.metrics, self.sessions = app, settings, metrics, sessions
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.hosts = {name.lower() for name in (*LOOPBACK, own, *settings.hosts)}
        self.held = self.passing = 0
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it before anything of it is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        one = Passing(secrets.token_hex(8), time.monotonic())
        self.passing += 1
        try:
            await self._pass(one, scope, receive, send)
        finally:
            self.passing -= 1
            self.held -= one.read
            self._note(one, scope)

    async def _pass(self, one: Passing, scope: Scope, receive: Receive, send: Send) -> None:
        dropped = False

        async def answer(message: Message) -> None:
            nonlocal dropped
            if message["type"] == "http.response.start":
                if one.refused is not None and not dropped:
                    # Whoever read the body made another error of it.
                    dropped = True
                    await one.refused.response()(scope, receive, told)
                await told(message)
            elif not dropped:
                await send(message)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                if dropped and one.begun:
                    return
                one.begun, one.status = True, message["status"]
                self.metrics.seconds.labels(_route(scope)).observe(time.monotonic() - one.began)
                _add(message, {"x-request-id": one.number, **HEADERS})
            await send(message)

        headers = _headers(scope)
        try:
            scope.setdefault("state", {})["owner"] = self._owner(scope, headers)
            scope["state"]["request"] = one.number
            self._check_room()
            if scope["path"] == LOGIN and scope["method"] == "POST":
                self._check_guesses(_address(scope))
            await self.app(scope, self._bounded(one, scope, headers, receive), answer)
        except Exception as error:
            refused = one.refused or self._answered(one, error)
            if one.begun:
                raise
            await refused.response()(scope, receive, told)

    def _answered(self, one: Passing, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        log.exception("a request failed", extra={"request": one.number})
        if isinstance(error, KandinskyError):
            return api_error(error)
        if disk_is_full(error):
            return full_disk()
        return ApiError(500, f"Something went wrong here. The log has it under {one.number}.", code="internal_error")

    def _owner(self, scope: Scope, headers: MutableMapping[str, str]) -> str | None:
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            raise ApiError(403, f"This server does not answer to {host[:100]!r}.", code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in SAFE and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "Pages of other origins may change nothing here.", code="origin_not_allowed")
        if headers.get("sec-fetch-site", "same-origin") == "cross-site" and scope["method"] not in SAFE:
            raise ApiError(403, "Pages of other sites may change nothing here.", code="origin_not_allowed")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        owner = self.settings.owner_of(token.strip() if scheme.lower() == "bearer" else None)
        if owner is None and (session := cookie_of(headers.get("cookie", ""))) is not None:
            owner = self.sessions.owner_of(session)
            if owner is not None and scope["method"] not in SAFE and origin is None:
                # A cookie is sent by whatever page asks; those of this server say where they are from.
                raise ApiError(403, "A change by a session needs an Origin.", code="origin_not_allowed")
        if owner is None and scope["path"] not in (*OPEN, LOGIN) and not is_page(scope["path"]):
            if token:
                self._check_guesses(_address(scope))
                self._guessed(_address(scope))
            raise ApiError(
                401, "No valid token was given.", code="invalid_api_key", headers={"www-authenticate": "Bearer"}
            )
        return owner

    def _check_guesses(self, address: str) -> None:
        """ApiError 429 for an address that has sent too many wrong tokens."""
        times, now = self._wrong.get(address) or deque[float](), time.monotonic()
        if len(times) == self.settings.guesses and now - times[0] < GUESSING:
            log.warning("an address guesses tokens", extra={"address": address})
            wait = {"retry-after": str(int(GUESSING - (now - times[0])) + 1)}
            raise ApiError(429, "Too many wrong tokens.", code="too_many_guesses", headers=wait)

    def _guessed(self, address: str) -> None:
        self._wrong.setdefault(address, deque(maxlen=self.settings.guesses)).append(time.monotonic())
        self._wrong.move_to_end(address)
        if len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)

    def _check_room(self) -> None:
        if self.passing > self.settings.most_requests:
            raise ApiError(
                503, "More is being answered than can be at once.", code="busy", headers={"retry-after": "5"}
            )

    def largest(self, path: str) -> int:
        """The largest body that a path takes."""
        if path == FILES:
            return self.settings.largest_file + SMALL
        return min(self.settings.largest_body, SMALL) if path in WITHOUT_IMAGES else self.settings.largest_body

    def _bounded(self, one: Passing, scope: Scope, headers: MutableMapping[str, str], receive: Receive) -> Receive:
        most, told = self.largest(scope["path"]), headers.get("content-length", "0")
        too_large = ApiError(413, f"The body is larger than {most // 2**20} MB.", code="body_too_large")
        if not told.isdigit() or len(told) > 15 or int(told) > most:
            raise too_large

        def refuse(error: ApiError) -> ApiError:
            one.refused = error
            return error

        async def bounded() -> Message:
            if one.refused is not None:
                raise one.refused
            if one.whole:
                return await receive()
            left = one.began + BODY_SECONDS + one.read / SLOWEST - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                raise refuse(ApiError(408, "The body came too slowly.", code="body_too_slow")) from None
            got = len(message.get("body", b""))
            one.read += got
            self.held += got
            one.whole = message["type"] != "http.request" or not message.get("more_body", False)
            if one.read > most:
                raise refuse(too_large)
            if self.held > self.settings.most_held:
                busy = "Larger bodies are coming in than can be held at once."
                raise refuse(ApiError(503, busy, code="busy", headers={"retry-after": "5"}))
            return message

        return bounded

    def _note(self, one: Passing, scope: Scope) -> None:
        if one.status == 401 and scope["path"] == LOGIN:
            self._guessed(_address(scope))
        route, seconds = _route(scope), time.monotonic() - one.began
        method = scope["method"] if scope["method"] in (*SAFE, "POST", "PATCH", "DELETE", "PUT") else "other"
        self.metrics.requests.labels(method, route, str(one.status)).inc()
        said = {"request": one.number, "method": method, "route": route, "status": one.status, "seconds": seconds}
        log.info("answered", extra={**said, "address": _address(scope), "owner": scope.get("state", {}).get("owner")})


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _route(scope: Scope) -> str:
    """The route of a request: what is between braces stays there, so that ids are in no line and no number."""
    return str(getattr(scope.get("route"), "path", "") or ("other" if scope["path"] not in OPEN else scope["path"]))


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _add(message: Any, headers: dict[str, str]) -> None:
    had = {name for name, _ in message["headers"]}
    message["headers"] = [
        *message["headers"],
        *((name.encode(), value.encode()) for name, value in headers.items() if name.encode() not in had),
    ]


def _name(host: str) -> str:
    """A Host header without its port."""
    return (host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower()
