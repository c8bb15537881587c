"""How much main memory is left."""

import os
from pathlib import Path


def free_main_memory() -> int | None:
    """Free bytes of main memory; None where the system does not tell."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        told = ""
    for line in told.splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
