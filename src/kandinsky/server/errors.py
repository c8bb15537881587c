"""Errors as clients of the OpenAI API read them: always `{"error": {message, type, param, code}}`.

What is the client's fault is told in full; of what is ours only that it happened: messages of libraries have paths and
addresses of this machine in them.
"""

import errno
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

from kandinsky.core.errors import JobError, KandinskyError, RequestError
from kandinsky.server.logs import LOGGER

log = logging.getLogger(LOGGER)
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(eq=False)
class ApiError(Exception):
    """An answer other than success. `param` names the field at fault, `code` is for programs."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """What the client gets."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """This as an answer."""
        return JSONResponse(self.body(), self.status, dict(self.headers))


def api_error(error: KandinskyError) -> ApiError:
    """What the library raised, as an answer: a request that cannot be is the client's fault, all else is ours."""
    if isinstance(error, RequestError):
        return ApiError(400, f"{error.message} {error.hint}".strip(), code="invalid_value")
    log.error("an answer failed: %s", type(error).__name__, exc_info=error)
    if disk_is_full(error):
        return full_disk()
    if isinstance(error, JobError):
        return ApiError(503, "The queue cannot be used now.", code="unavailable", headers={"retry-after": "5"})
    return ApiError(500, "Something went wrong here; the log says what.", code="internal_error")


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, says that a disk has no room."""
    match error:
        case None:
            return False
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return True
        case sqlite3.OperationalError(sqlite_errorcode=sqlite3.SQLITE_FULL):
            return True
    return disk_is_full(error.__cause__)


def full_disk() -> ApiError:
    """What is said where the disk has no room."""
    return ApiError(507, "The disk of the server is full.", code="disk_full", headers={"retry-after": "60"})


def of_job(error: object) -> ApiError:
    """The error of a failed job."""
    said = shown_error(error) or {}
    message = f"{said.get('message')} {said.get('hint')}".strip()
    match said.get("type"):
        case "RequestError":
            return ApiError(400, message, code="invalid_value")
        case "out of memory":
            return ApiError(507, message, code="out_of_memory", headers={"x-should-retry": "false"})
        case _:
            return ApiError(500, message, code="internal_error", headers={"x-should-retry": "false"})


def shown_error(error: object) -> dict[str, str] | None:
    """What the owner of a failed job is told of why: a kind, a message and a hint."""
    if not isinstance(error, Mapping):
        return None
    kind, message, hint = (str(error.get(name, "")) for name in ("type", "message", "hint"))
    if kind == "out of memory":
        message, hint = "There is not enough memory for this image.", "Ask for a smaller one."
    elif kind not in ("RequestError", "crash"):
        kind, message, hint = "error", "The image could not be drawn.", "The server's log says why."
    return {"type": kind, "message": message, "hint": hint}
