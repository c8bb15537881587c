"""What the machine has: a folder for caches, free memory, a compiler. Importing this imports no torch."""

import os
import shutil
import sys
from pathlib import Path

VARIABLE = "KANDINSKY_CACHE"
COMPILERS = ("c++", "g++", "clang++", "cl")


def cache_folder() -> Path:
    """The folder for caches: $KANDINSKY_CACHE, or `kandinsky` where the platform keeps them.

    That is $XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows. Nothing is created.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "kandinsky"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "kandinsky" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "kandinsky"


def free_main_memory() -> int | None:
    """Free bytes of main memory; None where the system does not say."""
    for line in proc_lines("meminfo"):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def proc_lines(name: str) -> list[str]:
    """The lines of a file in /proc, none where there is no such file."""
    try:
        return Path("/proc", name).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, None where there is none."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)
