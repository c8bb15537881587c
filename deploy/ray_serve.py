"""The server as an application of Ray Serve: the same API on each of several machines, behind Ray's proxies.

    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=... serve run deploy.ray_serve:application data=/srv/kandinsky \
        token=NAME=SECRET model=ORGANISATION/MODEL

Each replica has a queue of its own under `data`, in a folder that no other uses; clients that wait for their answer may
come to any. For `/api/jobs`, whose later requests must come to the replica of the first, run one replica alone.
Needs: pip install 'kandinsky-diffusion[server]' 'ray[serve]'.

Source: incident 13 of the security notes (ShadowRay): Ray's own API runs code for whoever reaches it, so that it asks
for a token here, its dashboard is off, and its proxy listens on the loopback.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before Ray is imported: what starts here is not open to whoever is in the network.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from kandinsky.core.errors import RequestError
from kandinsky.server.app import make_app
from kandinsky.server.settings import ServerSettings, owners_of


def settings_of(given: Mapping[str, str], replica: str) -> ServerSettings:
    """The settings of a replica from `name=value`s: data, token, model, host."""
    known = {"data", "token", "model", "host", "device", "batch_size"}
    if unknown := sorted(given.keys() - known):
        raise RequestError(f"The application has no {unknown[0]!r}.", f"There are {', '.join(sorted(known))}.")
    if not given.get("token"):
        raise RequestError("Ray's proxy can be reached from other machines, and no token is given.", "Give token=...")
    load = {name: given[name] for name in ("model", "device") if name in given}
    return ServerSettings(
        Path(given.get("data", "kandinsky-data")) / replica,
        load,
        owners=owners_of(given["token"].split(",")),
        hosts=tuple(one for one in given.get("host", "").split(",") if one),
        batch_size=int(given.get("batch_size", 4)),
    )


def application(given: Mapping[str, str]) -> Any:
    """The application, for `serve run`."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1"})

    def asgi() -> Any:
        return make_app(settings_of(given, f"{socket.gethostname()}-{os.getpid()}"))

    # Ray runs the lifespan of what the builder gives, in the replica.
    @serve.deployment(max_ongoing_requests=500, graceful_shutdown_timeout_s=60)
    @serve.ingress(asgi)
    class Kandinsky:
        """A replica."""

        def check_health(self) -> None:
            """Called by Ray; whoever answers is there."""

    return Kandinsky.bind()
