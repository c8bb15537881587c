"""Connections that a client holds open and does not use: heads that never end, answers that nobody reads, and how a
server stops.

Source: incident 10 of the security notes and fault R7 of its reliability suite (slow loris, slow readers).
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterator

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from kandinsky.core.errors import RequestError
from kandinsky.server.errors import ApiError

HEAD_SECONDS = 20.0
"""How long the head of a request may take, and how long a connection may wait for the next."""
READING_SECONDS = 30.0
"""How long a client may take nothing of an answer."""
LARGEST_HEAD = 64 * 1024
CONNECTIONS = 4096


class Connection(H11Protocol):
    """HTTP/1.1 with an end to waiting."""

    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and has yet to ask for something."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """It may ask for something else."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._forget()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """It reads more slowly than the answer comes."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no request, or has a head without an end."""
        body = json.dumps(ApiError(400, msg, code="invalid_request").body()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            if (output := self.conn.send(event)) is not None:
                self.transport.write(output)
        self.transport.close()

    def _wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _forget(self) -> None:
        for one in (self._waiting, self._unread):
            if one is not None:
                one.cancel()
        self._waiting = self._unread = None


class Server(uvicorn.Server):
    """uvicorn's server of an application of Starlette's.

    It tells the application when it is to stop, before connections are waited for. What the application raises when it
    begins comes out of `run`, where uvicorn itself would log a traceback.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.app, self.on_stop = app, on_stop
        self._running = contextlib.AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins the application, and listens."""
        await self._running.enter_async_context(self.app.router.lifespan_context(self.app))
        try:
            await super().startup(sockets)
        except BaseException:
            await self._running.aclose()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening, lets go on what has begun for as long as it may, and ends."""
        self.on_stop()
        try:
            await super().shutdown(sockets)
        finally:
            await self._running.aclose()


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets with each address of a host, which do not listen yet; closed at the end.

    Raises RequestError for a host or a port that cannot be had.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(
            f"--host {host} is no address of this machine ({why}).", "Give its name or number."
        ) from error
    with contextlib.ExitStack() as opened:
        made = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = opened.enter_context(socket.socket(family, kind, protocol))
            if sys.platform != "win32":  # there it would take the address from whoever has it
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # its own addresses alone, as asyncio has it
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                one.bind(address)
            except OSError as error:
                why = error.strerror or error
                message = f"{host}:{port} cannot be listened at ({why})."
                raise RequestError(message, "Give another --port, or --host.") from error
            made.append(one)
        yield made


def server_of(app: Starlette, host: str, port: int, drain: float, on_stop: Callable[[], None]) -> Server:
    """A server of an application, which has `drain` seconds for what has begun when it is stopped."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(HEAD_SECONDS),
        h11_max_incomplete_event_size=LARGEST_HEAD,
        # What is still being answered then has been told to come again, and has a moment to say so.
        timeout_graceful_shutdown=int(drain) + 5,
    )
    return Server(config, app, on_stop)


def open_files() -> None:
    """Lets this process have as many connections as it may."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
