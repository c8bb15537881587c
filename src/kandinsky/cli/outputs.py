"""Where images go: the names the user gave, or names of prompt and seed that replace nothing."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.cli.console import say_bytes
from kandinsky.core.errors import OutputError
from kandinsky.core.events import numbered
from kandinsky.core.files import ExistsError, check_writable
from kandinsky.core.images import Picture
from kandinsky.core.metadata import Metadata, check_image_path, check_suffix, encode_image, write_image
from kandinsky.core.requests import Embedding, Mix, Prompt, Request

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SLUG = 40
STDOUT = "-"


def slug(prompt: Prompt) -> str:
    """A short file name for a prompt: lower-case words joined by hyphens, letters of any script kept."""
    match prompt:
        case str():
            text = prompt
        case Mix(items=items):
            text = " ".join(_word(item) for item in items)
        case _:
            text = "embedding"
    # Not \w, which would drop the vowel signs of Hindi and other scripts.
    kept = [letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text.lower()]
    words = "".join(kept).split()
    name = ""
    for word in words:
        if name and len(name) + 1 + len(word) > LONGEST_SLUG:
            break
        name = f"{name}-{word}" if name else word[:LONGEST_SLUG]
    return name or "image"


def _word(item: str | Picture | Embedding) -> str:
    match item:
        case str():
            return item
        case Picture():
            return Path(item.path).stem if item.path else "image"
        case _:
            return "embedding"


@dataclass(frozen=True)
class Places:
    """Where the images of a request go.

    `paths` has one for each; `own` says that they were made up here, so that one that is taken gets a further number;
    `replace` lets files be replaced. `stdout` is for one image, which goes there as a PNG.
    """

    paths: list[Path]
    own: bool = False
    replace: bool = False
    stdout: bool = False

    def write(self, image: "Image", index: int, metadata: Metadata | None) -> Path:
        """Writes image `index` whole, and returns its path; no image ever takes the place of another one.

        Raises OutputError, as ExistsError where a file with the name that was given has come in between.
        """
        path = self.paths[index]
        if self.stdout:
            say_bytes(encode_image(image, path, metadata))
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"There is no folder {path.parent} ({error.strerror}).", "Choose another one.") from error
        number = 2
        while True:
            try:
                return write_image(image, path, metadata, replace=self.replace)
            except ExistsError:
                if not self.own:
                    raise
                path = self.paths[index].with_name(f"{self.paths[index].stem}-{number}{path.suffix}")
                number += 1


def places(output: str | None, request: Request, *, overwrite: bool = False, sheet: bool = False) -> Places:
    """Where the images of a request with a seed go, or its one `sheet`; each place is checked to be writable.

    `output` is a file (numbered for several images), a folder (made where there is none, if it ends in a slash), a
    pattern with {prompt}, {seed} and {index}, or - for stdout; nothing is the current folder. Folders get names of
    prompt and seed. Raises OutputError, also for a file that exists, unless `overwrite`.
    """
    size = 1 if sheet else request.size
    if output == STDOUT:
        if size > 1:
            raise OutputError(f"{size} images cannot go to stdout.", "Draw one, or give a folder.")
        return Places([Path("stdout.png")], stdout=True)
    if output is None or output.endswith(("/", os.sep)) or Path(output).is_dir():
        folder = Path(output or "")
        given = [
            folder / f"{slug(prompt)}-{seed}{'-sheet' if sheet else ''}.png" for prompt, seed in _of(request, size)
        ]
        return Places([_checked(path) for path in _numbered(given)], own=not overwrite, replace=overwrite)
    if "{" in output:
        paths = _filled(output, request, size)
    else:
        path = Path(output)
        if not path.suffix:
            raise OutputError(f"{output} has no image format.", f"Name it {output}.png, or {output}/ for a folder.")
        paths = [path] if size == 1 else [numbered(path, index) for index in range(size)]
    for path in paths:
        if path.exists() and not overwrite and not path.is_dir():
            raise OutputError(f"{path} exists already.", "--overwrite replaces it.")
    return Places([_checked(path) for path in paths], replace=overwrite)


def _of(request: Request, size: int) -> list[tuple[Prompt, int]]:
    return [(request.prompts[index // request.count], seed) for index, seed in enumerate(request.seeds[:size])]


def _numbered(paths: Sequence[Path]) -> list[Path]:
    """The paths, those that come again with a number behind them."""
    found: list[Path] = []
    for path in paths:
        candidate, number = path, 2
        while candidate in found:
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
            number += 1
        found.append(candidate)
    return found


def _filled(pattern: str, request: Request, size: int) -> list[Path]:
    try:
        names = [
            pattern.format(prompt=slug(prompt), seed=seed, index=index + 1)
            for index, (prompt, seed) in enumerate(_of(request, size))
        ]
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise OutputError(f"{pattern} is not a pattern ({error}).", "Use {prompt}, {seed} and {index}.") from error
    if len(set(names)) < len(names):
        raise OutputError(f"{pattern} gives several images one name.", "Put {index} or {seed} into it.")
    return [Path(name) for name in names]


def _checked(path: Path) -> Path:
    """The path, after it is sure that it can be written, in a folder that may still have to be made."""
    check_suffix(path)
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder != path.parent:
        if not folder.is_dir():
            raise OutputError(f"There can be no folder {path.parent}: {folder} is a file.", "Choose another one.")
        check_writable(folder / path.name)
        return path
    return check_image_path(path)
