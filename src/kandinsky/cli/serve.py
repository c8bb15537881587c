"""`kandinsky serve`: the model behind HTTP."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from kandinsky.cli.console import warn
from kandinsky.cli.generate import MEMORY_SETTINGS, load_settings, typed
from kandinsky.core.errors import RequestError

if TYPE_CHECKING:
    from kandinsky.cli.flags import ServeFlags
    from kandinsky.server.settings import ServerSettings
    from kandinsky.server.webhooks import Webhook

TOKEN, SECRET = "KANDINSKY_TOKEN", "KANDINSKY_WEBHOOK_SECRET"


def _webhook(url: str) -> "Webhook":
    from kandinsky.server.webhooks import Webhook

    secret = os.environ.get(SECRET)
    if not secret:
        raise RequestError("What a webhook is told is signed.", f"Set {SECRET} to whsec_ and base64.")
    return Webhook(url, secret)


def _settings(flags: "ServeFlags") -> "ServerSettings":
    from kandinsky.server.settings import ServerSettings, owners_of

    tokens = flags.token or [one for one in os.environ.get(TOKEN, "").split(",") if one]
    load = {"model": flags.model, **load_settings(flags), **typed(flags, MEMORY_SETTINGS)}
    if flags.device is not None:
        load["device"] = flags.device
    settings = ServerSettings(
        flags.data, load, flags.host, flags.port, owners_of(tokens), tuple(flags.allow_host or ())
    )
    settings = replace(settings, fetch_from=tuple(flags.fetch_from or ()))
    if flags.batch_size is not None:
        settings = replace(settings, batch_size=flags.batch_size)
    if flags.webhook is not None:
        settings = replace(settings, webhook=_webhook(flags.webhook))
    if flags.drain is not None:
        settings = replace(settings, drain=flags.drain)
    if flags.keep_uploads is not None:
        settings = replace(settings, keep_uploads=flags.keep_uploads * 24 * 3600)
    if flags.most_uploads is not None:
        settings = replace(settings, most_uploads=int(flags.most_uploads * 1e9))
    return settings


def serve(flags: "ServeFlags") -> None:
    """Serves until it is interrupted.

    Raises RequestError without the extra and for an address that cannot be had, BadParameter for flags that cannot be,
    and what the model or the folder raises when they are opened.
    """
    try:
        from kandinsky.server.app import make_app
        from kandinsky.server.connections import bound, open_files, server_of
        from kandinsky.server.logs import set_up
    except ImportError as error:
        raise RequestError(
            f"The server needs {error.name}.", "Run: pip install 'kandinsky-diffusion[server]'"
        ) from error
    try:
        settings = _settings(flags)
    except RequestError as error:
        raise typer.BadParameter(f"{error.message} {error.hint}") from error
    with bound(settings.host, settings.port) as listening:
        if not flags.quiet:
            who = f"{len(settings.owners)} tokens" if settings.owners else "no token, so for this machine alone"
            warn(
                f"{settings.model} at http://{flags.host}:{flags.port} with {who}; jobs and images are in {flags.data}."
            )
        set_up(flags.log, prompts=flags.log_prompts, quiet=flags.quiet)
        open_files()
        app = make_app(settings)
        server = server_of(app, settings.host, settings.port, settings.drain, app.state.service.drain)
        server.run(sockets=listening)
