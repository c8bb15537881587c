"""What a server writes of itself: one line for each thing that happens, as text or as JSON.

Neither tokens nor prompts are in it: a line has fields that are named here, of an exception only its kind and where it
was raised. `prompts=True` adds what was asked and what exceptions say.
"""

import json
import logging
import sys
import time
import traceback
from typing import Literal, TypeAlias

LOGGER = "kandinsky.server"
FIELDS = ("request", "method", "route", "status", "seconds", "owner", "address", "jobs", "images", "prompt", "code")
"""What lines may say of a request or of jobs, besides time, level and event."""
Form: TypeAlias = Literal["text", "json"]


class Lines(logging.Formatter):
    """Records as lines."""

    def __init__(self, form: Form, prompts: bool = False) -> None:
        super().__init__()
        self.form, self.prompts = form, prompts

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the record."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        said: dict[str, object] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        for name in FIELDS:
            value = record.__dict__.get(name)
            if value is not None and (name != "prompt" or self.prompts):
                said[name] = round(value, 4) if isinstance(value, float) else value
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = self._error(record.exc_info[1])
        if self.form == "json":
            return json.dumps(said, ensure_ascii=False, default=str)
        head = f"{said.pop('time')} {said.pop('level')} {_plain(said.pop('event'))}"
        return " ".join([head, *(f"{name}={_plain(value)}" for name, value in said.items())])

    def _error(self, error: BaseException) -> str:
        places = [f"{one.name} ({one.filename}:{one.lineno})" for one in traceback.extract_tb(error.__traceback__)]
        said = f"{type(error).__name__}: {error}" if self.prompts else type(error).__name__
        return " < ".join([said, *places[::-1]])


def _plain(value: object) -> str:
    """A value that cannot begin a line of its own, or look like another field."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def set_up(form: Form = "text", *, prompts: bool = False, quiet: bool = False) -> logging.Handler:
    """Sends the lines of the server, and of what it is built on, to stderr; with `quiet` only warnings and worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form, prompts))
    for name, level in ((LOGGER, logging.WARNING if quiet else logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    return handler
