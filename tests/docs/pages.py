"""Markdown pages as what can be checked in them: fenced blocks, shell commands, links and tables."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

# python and bash are run as they stand; py needs a published model and is run with a stand-in for it; console
# needs a network, a package or hours, so only its flags are checked; toml is written to the file it names;
# mindspore is Python that tests/backends runs.
LANGUAGES = ("python", "py", "bash", "console", "toml", "mindspore", "text")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\|\s*`([^`]+)`", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in _FENCE.finditer(text)]


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, word by word, without comments, prompts and continuations."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in line.removeprefix("$ ").split(" && "):
            if words := shlex.split(command, comments=True):
                yield words


def links(page: Path) -> Iterator[str]:
    """The targets of links and images that lie in this repository."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(prose):
        if not match[1].startswith(("http://", "https://", "#")):
            yield match[1].partition("#")[0]


def first_cells(page: Path) -> list[str]:
    """What stands in code in the first cell of each table row."""
    return _ROW.findall(page.read_text(encoding="utf-8"))
