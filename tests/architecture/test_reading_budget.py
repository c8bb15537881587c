"""How much one reads to follow `pipe.generate`: files and lines, networks and loading left out."""

import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import kandinsky
from tests.tiny import write_tiny

ROOT = Path(kandinsky.__file__).resolve().parent
LEFT_OUT = ("networks/", "engine/acceleration/")
"""Networks, and how a step of one is run fast on a device."""
MOST_FILES, MOST_LINES = 22, 900
"""The lines are all of every function that runs, docstrings too; less than half of them are executed."""


def functions_run(call: Any) -> dict[str, set[CodeType]]:
    """The functions of the library that a call runs, by their file."""
    found: dict[str, set[CodeType]] = defaultdict(set)

    def entered(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and frame.f_code.co_name != "<module>":
            found[path.relative_to(ROOT).as_posix()].add(frame.f_code)

    sys.setprofile(entered)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {name: codes for name, codes in found.items() if not name.startswith(LEFT_OUT)}


def lines_of(codes: set[CodeType]) -> int:
    """The lines from the first of each function to its last, docstrings and comments among them."""
    lines: set[int] = set()
    for code in codes:
        last = max(line for _, _, line in code.co_lines() if line is not None)
        lines |= set(range(code.co_firstlineno, last + 1))
    return len(lines)


def test_a_request_is_read_in_few_files_and_lines(tmp_path: Path) -> None:
    """On a decoder with a prior; lines are those of every function that runs, whole."""
    pipe = kandinsky.load(write_tiny(tmp_path), device="cpu", dtype="float32")
    pipe.generate("a red fox", seed=1)
    found = functions_run(lambda: pipe.generate("a red fox", seed=1))
    lines = {name: lines_of(codes) for name, codes in sorted(found.items())}
    shown = f"{len(lines)} files, {sum(lines.values())} lines: {lines}"
    assert "tasks/generate.py" in lines, shown
    assert len(lines) <= MOST_FILES, shown
    assert sum(lines.values()) <= MOST_LINES, shown
