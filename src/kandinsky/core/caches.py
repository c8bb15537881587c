"""Where this library keeps what it can make again: the platform's folder for caches."""

import os
import sys
from pathlib import Path

VARIABLE = "KANDINSKY_CACHE"


def cache_folder() -> Path:
    """The folder for caches: $KANDINSKY_CACHE, or `kandinsky` where the platform keeps them.

    That is $XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows. Nothing is
    created.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "kandinsky"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "kandinsky" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "kandinsky"
