"""What a server is told when it starts."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from kandinsky.core.errors import RequestError
from kandinsky.core.images import SIDES
from kandinsky.server.webhooks import Webhook

LOCAL_OWNER = "local"
"""Who everybody is where no token is asked for."""
SHORTEST_TOKEN = 16
SHORTEST_SIDE, LONGEST_SIDE = SIDES[0], 4096
"""Pixels of a side that may be asked for by name; `most_pixels` bounds their product."""


@dataclass(frozen=True)
class ServerSettings:
    """The address, the model, the folder of jobs and images, who may come in, and how much is taken.

    `load` are the arguments of `kandinsky.load`; `owners` are names by the SHA-256 of their token (none: everybody of
    this machine); `hosts` are names that the server answers to besides its address and the loopback's. `largest_body`
    and `largest_file` are bytes of one request, `most_held` of all at once; `most_pixels` are those of an image that is
    drawn; `guesses` are wrong tokens that an address may send in a minute; `drain` are the seconds that a server which
    is stopped has for what has begun; `fetch_from` are hosts whose images clients may name. An image that was sent and
    that no job needs is kept for `keep_uploads` seconds after its last use, all of them fill `most_uploads` bytes.
    """

    data: Path
    load: Mapping[str, JsonValue] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    owners: Mapping[str, str] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    batch_size: int = 4
    most_queued: int = 10_000
    largest_body: int = 64 * 2**20
    largest_file: int = 200 * 2**20
    most_held: int = 512 * 2**20
    most_requests: int = 2000
    most_pixels: int = LONGEST_SIDE**2
    guesses: int = 20
    drain: float = 10.0
    workers: Sequence[Mapping[str, JsonValue]] = ({},)
    webhook: Webhook | None = None
    fetch_from: Sequence[str] = ()
    keep_uploads: float = 7 * 24 * 3600.0
    most_uploads: int = 20 * 10**9

    def __post_init__(self) -> None:
        if not self.owners and not is_loopback(self.host):
            raise RequestError(
                f"{self.host} can be reached from other machines, and no token is asked for.",
                "Give --token (or KANDINSKY_TOKEN), or stay on 127.0.0.1.",
            )

    @property
    def model(self) -> str:
        """The model's name, as clients see it."""
        return str(self.load.get("model") or "emoji")

    def owner_of(self, token: str | None) -> str | None:
        """Who comes with this token; None for nobody. Takes as long for a wrong token as for a right one."""
        if not self.owners:
            return LOCAL_OWNER
        given, found = token_hash(token or ""), None
        for known, owner in self.owners.items():
            if hmac.compare_digest(known, given):
                found = owner
        return found


def token_hash(token: str) -> str:
    """The SHA-256 under which a token is known; the token itself is kept nowhere."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def owners_of(tokens: Sequence[str]) -> dict[str, str]:
    """Owners by the hash of their token, from "TOKEN" or "NAME=TOKEN"; RequestError for one that can be guessed."""
    owners: dict[str, str] = {}
    for number, text in enumerate(tokens, start=1):
        name, equals, token = text.partition("=")
        name, token = (name, token) if equals else (f"token {number}", text)
        if not name.strip():
            raise RequestError(f"Token {number} has a name that says nothing.", "Write NAME=TOKEN, or TOKEN alone.")
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
            raise RequestError(
                f"Token {number} is no secret.",
                f"Use {SHORTEST_TOKEN} letters or digits, such as: openssl rand -hex 16",
            )
        owners[token_hash(token)] = name
    return owners


def is_loopback(host: str) -> bool:
    """Whether an address cannot be reached from other machines."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
