"""Run, edit, fuse, fine-tune, convert and evaluate the Kandinsky text-to-image models.

Importing this is cheap: every public name is looked up when it is first used, and torch with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kandinsky.core.edges import edges
    from kandinsky.core.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        HubError,
        KandinskyError,
        KandinskyWarning,
        OutputError,
        RequestError,
        TokenizerError,
    )
    from kandinsky.core.events import Decoding, Denoising, Encoding, Event, Finished, Result, Warned
    from kandinsky.core.images import Picture
    from kandinsky.core.prompts import Embedding, Mix, mix
    from kandinsky.core.requests import Request
    from kandinsky.engine.pipeline import Pipeline, load

    __version__: str

_HOMES = {
    "core.edges": "edges",
    "core.errors": "CheckpointError ConfigError DataError HubError KandinskyError KandinskyWarning OutputError "
    "RequestError TokenizerError",
    "core.events": "Decoding Denoising Encoding Event Finished Result Warned",
    "core.images": "Picture",
    "core.prompts": "Embedding Mix mix",
    "core.requests": "Request",
    "engine.pipeline": "Pipeline load",
}
_HOME = {name: f"kandinsky.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Decoding",
    "Denoising",
    "Embedding",
    "Encoding",
    "Event",
    "Finished",
    "HubError",
    "KandinskyError",
    "KandinskyWarning",
    "Mix",
    "OutputError",
    "Picture",
    "Pipeline",
    "Request",
    "RequestError",
    "Result",
    "TokenizerError",
    "Warned",
    "__version__",
    "edges",
    "load",
    "mix",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from kandinsky.core.metadata import library_version

        return library_version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
