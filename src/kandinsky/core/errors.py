"""The one exception tree: every message names the offending value and ends with what to do about it."""

import difflib
from collections.abc import Iterable

LONGEST = 500
"""Characters of an error's text."""


class KandinskyError(Exception):
    """Base of every error this library raises on purpose.

    `str(error)` is one sentence that names the value, then the hint when there is one: at most `LONGEST`
    characters, all of which can be printed.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = shortened(hint, LONGEST // 2)
        self.message = shortened(message, LONGEST - len(self.hint) - bool(self.hint))
        super().__init__(f"{self.message} {self.hint}".strip())


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text with its middle left out where it is longer, and with what cannot be printed escaped."""
    if len(text) > 2 * longest:
        text = f"{text[:longest]}{text[-longest:]}"
    if not text.isprintable():
        lines = " ".join(text.splitlines())
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in lines)
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 5]} ... {text[-tail:]}"


class KandinskyWarning(UserWarning):
    """Something was done otherwise than asked, such as a prompt of which the end was not read."""


class RequestError(KandinskyError, ValueError):
    """A request asks for something that cannot be done (a size, a strength, a mask, a sampler name)."""


class CheckpointError(KandinskyError):
    """Weights or configuration files are missing, damaged or of another model."""


class TokenizerError(CheckpointError):
    """A tokenizer's files are missing or unreadable."""


class HubError(CheckpointError):
    """A download from a model hub failed or is not allowed."""


class ConfigError(KandinskyError, ValueError):
    """A training or evaluation configuration is wrong."""


class DataError(KandinskyError):
    """Images, captions or other input data are missing or unreadable."""


class OutputError(KandinskyError):
    """A result cannot be written where it was asked for."""


class JobError(KandinskyError):
    """A store of jobs cannot be used, or holds no such job."""


def similar(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as `Did you mean 'ddim'?`, or nothing where no name is like a misspelt `name`."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as `Did you mean 'ddim'? Known: ddim, ddpm.` for a misspelt `name`."""
    choices = sorted(known)
    return f"{similar(name, choices)} Known: {', '.join(choices)}.".strip()
