"""Where finished files go: a folder, or anything that fsspec reaches (s3://, gs://, memory:// ...)."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kandinsky.core.errors import OutputError, RequestError
from kandinsky.core.files import write_atomically


class Place(Protocol):
    """Files by their names; a file is there whole or not at all."""

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, or replaces it."""

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where there is none."""

    def names(self) -> set[str]:
        """The files that are there."""

    def remove(self, name: str) -> None:
        """Takes a file away, if it is there."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, or replaces it."""
        write_atomically(self.path / name, data)

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self) -> set[str]:
        """The files that are there."""
        with os.scandir(self.path) as entries:
            return {entry.name for entry in entries if entry.is_file()}

    def remove(self, name: str) -> None:
        """Takes a file away, if it is there."""
        (self.path / name).unlink(missing_ok=True)


class Remote:
    """A folder of a file system of fsspec. Object stores show an upload when all of it is there; elsewhere a
    temporary file is renamed."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped]
        except ImportError as error:
            raise RequestError(
                f"{url} needs fsspec.", "Run: pip install 'kandinsky-diffusion[cluster]', or give a folder."
            ) from error
        try:
            self._files, root = fsspec.core.url_to_fs(url)
            self._files.makedirs(root, exist_ok=True)
        except (ValueError, ImportError, OSError) as error:
            raise OutputError(f"{url} cannot be written to ({error}).", "Check the address and its rights.") from error
        self._root: str = root.rstrip("/")
        self.url = url

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there, or replaces it."""
        whole, part = f"{self._root}/{name}", f"{self._root}/.{name}.part"
        try:
            if "file" in _protocols(self._files):
                self._files.pipe_file(part, data)
                self._files.mv(part, whole)
            else:
                self._files.pipe_file(whole, data)
        except OSError as error:
            raise OutputError(f"{self.url}/{name} cannot be written ({error}).", "Check the rights there.") from error

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where there is none."""
        try:
            found: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return found

    def names(self) -> set[str]:
        """The files that are there."""
        found = self._files.ls(self._root, detail=True, refresh=True)
        return {one["name"].rsplit("/", 1)[-1] for one in found if one["type"] == "file"}

    def remove(self, name: str) -> None:
        """Takes a file away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def is_url(where: str) -> bool:
    """Whether this is an address of fsspec, not a folder."""
    return "://" in where


def open_place(where: str) -> Place:
    """The place at a path or an address. OutputError where nothing can be written, RequestError without fsspec."""
    return Remote(where) if is_url(where) else Folder(Path(where))
