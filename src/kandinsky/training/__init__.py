"""Training: what is trainable x objective x network over one loop. `run_config` is the way in."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kandinsky.training.api import run_config

__all__ = ["run_config"]


def __getattr__(name: str) -> object:
    # Imported on first use: reading a configuration or an event must not load torch.
    if name == "run_config":
        from kandinsky.training.api import run_config

        return run_config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
