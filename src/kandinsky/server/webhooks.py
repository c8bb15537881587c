"""Telling another program that something has ended, signed as Standard Webhooks has it.

Source: the Standard Webhooks specification (webhook-id, webhook-timestamp, webhook-signature: `v1,` and the base64 of
HMAC-SHA256 over "id.timestamp.body"), as the official OpenAI client verifies it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

from kandinsky.core.errors import RequestError
from kandinsky.server.logs import LOGGER

log = logging.getLogger(LOGGER)
PREFIX = "whsec_"
SECONDS = 10.0
PAUSES = (1.0, 10.0, 60.0)
"""Seconds before each further attempt."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another address than the one that was said is not asked: it may be one of this machine's network."""

    def redirect_request(self, *_: Any) -> None:
        """None: what redirects has not taken it."""


_OPENER = urllib.request.build_opener(_NoRedirects)


@dataclass(frozen=True)
class Webhook:
    """Where to tell, and the secret that both sides know; whoever runs the server says both."""

    url: str
    secret: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise RequestError(f"The webhook {self.url!r} is no http address.", "Write https://...")
        try:
            base64.b64decode(self.secret.removeprefix(PREFIX), validate=True)
        except binascii.Error as error:
            raise RequestError("The secret of the webhook is no base64.", f"Write {PREFIX} and base64.") from error

    def headers(self, number: str, at: int, body: bytes) -> dict[str, str]:
        """The signature of a message."""
        key = base64.b64decode(self.secret.removeprefix(PREFIX))
        signed = hmac.new(key, f"{number}.{at}.".encode() + body, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": number,
            "webhook-timestamp": str(at),
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Sends an event, up to four times; what never arrives is logged."""
        number, at = f"evt_{uuid.uuid4().hex}", int(time.time())
        message = {"id": number, "object": "event", "type": kind, "created_at": at, "data": data}
        body = json.dumps(message).encode()
        for pause in (0.0, *PAUSES):
            time.sleep(pause)
            headers = self.headers(number, int(time.time()), body)
            try:
                sent = urllib.request.Request(self.url, body, headers, method="POST")
                with _OPENER.open(sent, timeout=SECONDS) as answer:
                    if answer.status < 300:
                        return
            except OSError as error:
                log.warning("the webhook did not take %s: %s", number, type(error).__name__)
        log.error("the webhook never took %s", number)
