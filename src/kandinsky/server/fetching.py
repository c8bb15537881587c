"""Fetching an image that a client names by its address: off unless whoever runs the server names hosts for it.

Source: incident 8 of the security notes (SSRF): the address of an allowed host is resolved once, looked at, and
connected to; nothing is asked of addresses that are not public, no redirect is followed, size and time have limits.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from kandinsky.server.errors import ApiError

LARGEST = 20 * 2**20
SECONDS = 10.0
WRAPPERS = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/32", "2001::/32", "2002::/16")))
"""Addresses that stand for those of IPv4, through which a private one could be meant."""


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, and of nobody's own network or machine."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and any(found in one for one in WRAPPERS):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def resolved(host: str) -> list[str]:
    """The addresses of a host; empty where it has none."""
    try:
        return [str(one[4][0]) for one in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
    except OSError:
        return []


class _Pinned(http.client.HTTPSConnection):
    """A connection to one address of a host, whose name the certificate must have."""

    def __init__(self, host: str, address: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=SECONDS, context=context)
        self.address, self.safe = address, context

    def connect(self) -> None:
        """Connects to the address that was looked at, whatever the name means by now."""
        bare = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self.safe.wrap_socket(bare, server_hostname=self.host)


class Fetcher:
    """Fetches from these hosts alone, by https."""

    def __init__(
        self,
        hosts: Sequence[str],
        find: Callable[[str], list[str]] = resolved,
        context: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        self.hosts = frozenset(host.lower() for host in hosts)
        self.find, self.port = find, port
        self.context = context or ssl.create_default_context()

    def get(self, url: str, param: str) -> bytes:
        """What lies at an address. ApiError that names `param` for one that is not allowed or does not give it."""
        host, path = self._parts(url, param)
        addresses = self.find(host)
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(param, "its host has no public address")
        connection = _Pinned(host, addresses[0], self.port, self.context)
        deadline = time.monotonic() + SECONDS
        try:
            connection.request("GET", path, headers={"accept": "image/png, image/jpeg, image/webp"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refused(param, "it does not answer with an image, and redirects are not followed")
            parts, size = [], 0
            while part := answer.read(65536):
                parts.append(part)
                size += len(part)
                if size > LARGEST or time.monotonic() > deadline:
                    raise _refused(param, f"it is larger than {LARGEST // 2**20} MB, or too slow")
            return b"".join(parts)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _refused(param, "it could not be fetched") from error
        finally:
            connection.close()

    def _parts(self, url: str, param: str) -> tuple[str, str]:
        try:
            found = urlsplit(url)
            port, host = found.port, (found.hostname or "").lower()
        except ValueError:
            raise _refused(param, "it is no address") from None
        plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
        if not plain or found.scheme != "https" or "@" in found.netloc or port not in (None, self.port):
            raise _refused(param, "only plain https is fetched")
        if host not in self.hosts:
            raise _refused(param, "this server does not fetch from there")
        return host, (found.path or "/") + (f"?{found.query}" if found.query else "")


def _refused(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param} is not fetched: {why}.", param, "unsupported_url")
