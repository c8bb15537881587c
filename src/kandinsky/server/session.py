"""Sessions of the page: a token, given once, becomes a cookie that scripts cannot read.

The file of sessions holds hashes, of the cookie and of the token: whoever reads it can use neither, and a token that
is not one of the server's any more ends its sessions.
"""

import asyncio
import json
import secrets
import threading
import time
from http.cookies import CookieError, SimpleCookie

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from kandinsky.core.files import write_atomically
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, read_bytes
from kandinsky.server.errors import ApiError
from kandinsky.server.settings import ServerSettings, token_hash

router = APIRouter(prefix="/api")
LOGIN = "/api/session"
COOKIE = "kandinsky_session"
SECONDS = 30 * 24 * 3600
MOST = 1000
"""Sessions that are kept; the oldest make room."""


class Login(BaseModel):
    """Who wants to come in."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=4096)


class Who(BaseModel):
    """Who is asking: `owner` is None for nobody that is known; `token` is whether the server asks for one."""

    owner: str | None
    token: bool


class Sessions:
    """The sessions of one server, in a file of its folder."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings, self.path = settings, settings.data / "sessions.json"
        self._lock = threading.Lock()
        self._known = self._read()

    def begin(self, token: str) -> str | None:
        """The cookie of a new session; None for a token that is none."""
        if self.settings.owner_of(token) is None:
            return None
        cookie = secrets.token_urlsafe(32)
        with self._lock:
            self._known[token_hash(cookie)] = (token_hash(token), int(time.time()) + SECONDS)
            self._write()
        return cookie

    def owner_of(self, cookie: str) -> str | None:
        """Whose session it is; None for none, and for one that has ended."""
        found = self._known.get(token_hash(cookie))
        if found is None or found[1] < time.time():
            return None
        return self.settings.owners.get(found[0])

    def end(self, cookie: str) -> None:
        """Ends a session."""
        with self._lock:
            if self._known.pop(token_hash(cookie), None) is not None:
                self._write()

    def _read(self) -> dict[str, tuple[str, int]]:
        try:
            found = parse_json(read_bytes(self.path))
        except (UnsoundTextError, OSError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: (str(one[0]), int(one[1])) for name, one in found.items() if isinstance(one, list)}

    def _write(self) -> None:
        now = time.time()
        kept = sorted((one for one in self._known.items() if one[1][1] >= now), key=lambda one: one[1][1])[-MOST:]
        self._known = dict(kept)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self._known).encode())


def cookie_of(header: str) -> str | None:
    """The session in a Cookie header."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _sessions(http: HttpRequest) -> Sessions:
    found: Sessions = http.app.state.sessions
    return found


@router.get("/session")
async def who(http: HttpRequest) -> Who:
    """Who is asking."""
    settings = _sessions(http).settings
    return Who(owner=http.scope["state"]["owner"], token=bool(settings.owners))


@router.post("/session", responses={401: {"description": "The token is none of this server's."}})
async def login(http: HttpRequest, given: Login) -> Response:
    """Begins a session of the page: sets its cookie."""
    sessions = _sessions(http)
    if not sessions.settings.owners:
        return JSONResponse({"owner": sessions.settings.owner_of(None), "token": False})
    cookie = await asyncio.to_thread(sessions.begin, given.token)
    if cookie is None:
        raise ApiError(401, "This token is not known here.", "token", "invalid_api_key")
    answer = JSONResponse({"owner": sessions.owner_of(cookie), "token": True})
    secure = http.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, SECONDS, path="/", secure=secure, httponly=True, samesite="strict")
    return answer


@router.delete("/session", status_code=204)
async def logout(http: HttpRequest) -> Response:
    """Ends the session of the page."""
    cookie = cookie_of(http.headers.get("cookie", ""))
    if cookie is not None:
        await asyncio.to_thread(_sessions(http).end, cookie)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
