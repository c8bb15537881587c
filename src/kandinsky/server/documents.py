"""Small JSON documents of the server, each in a file of its own that is there whole or not at all."""

import json
import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kandinsky.core.files import write_atomically
from kandinsky.core.untrusted_text import UnsoundTextError, parse_json, read_bytes
from kandinsky.server.errors import ApiError

PART = 2**20
_ID = re.compile(r"[a-z]+[-_][0-9a-f]{32}")


@dataclass(frozen=True)
class Documents:
    """Documents of one kind in a folder; each has an `id`, its time and its owner, and may have content beside it."""

    folder: Path
    kind: str

    def new(self, owner: str, **values: Any) -> dict[str, Any]:
        """A document with an id of its own, not written yet."""
        return {"id": f"{self.kind}{uuid.uuid4().hex}", "created_at": int(time.time()), "owner": owner, **values}

    def write_content(self, document: dict[str, Any], content: bytes | IO[bytes]) -> int:
        """Writes the content of a document, part by part, before the document itself; returns its length."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.content(document)

        def copy(file: IO[bytes]) -> None:
            if isinstance(content, bytes):
                file.write(content)
            else:
                shutil.copyfileobj(content, file, PART)

        write_atomically(path, copy)
        return path.stat().st_size

    def size(self) -> int:
        """Bytes of the contents of all documents."""
        total = 0
        for path in self.folder.glob("*.data"):
            with suppress(FileNotFoundError):  # removed meanwhile
                total += path.stat().st_size
        return total

    def write(self, document: dict[str, Any]) -> None:
        """Writes a document."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, ensure_ascii=False)
        write_atomically(self.folder / f"{document['id']}.json", text.encode())

    def content(self, document: dict[str, Any]) -> Path:
        """Where the content of a document lies."""
        return self.folder / f"{document['id']}.data"

    def read(self, name: str, owner: str) -> dict[str, Any]:
        """The document of that id; ApiError 404 where there is none, or where it is another owner's."""
        path = self.folder / f"{name}.json"
        # An id never becomes a path before it looks like one.
        if _ID.fullmatch(name) and name.startswith(self.kind) and path.is_file():
            found = self._parsed(path)
            if found is not None and found.get("owner") == owner:
                return found
        raise ApiError(404, f"There is no {name[:64]!r}.", "id", "not_found")

    def all(self, owner: str | None = None) -> list[dict[str, Any]]:
        """The documents of an owner, or of all, the newest first."""
        found = [one for path in self.folder.glob(f"{self.kind}*.json") if (one := self._parsed(path)) is not None]
        own = [one for one in found if owner in (None, one.get("owner"))]
        return sorted(own, key=lambda one: (one["created_at"], one["id"]), reverse=True)

    def remove(self, document: dict[str, Any]) -> None:
        """Removes a document and its content."""
        (self.folder / f"{document['id']}.json").unlink(missing_ok=True)
        self.content(document).unlink(missing_ok=True)

    def _parsed(self, path: Path) -> dict[str, Any] | None:
        try:
            found = parse_json(read_bytes(path))
        except (UnsoundTextError, OSError):
            return None
        return found if isinstance(found, dict) else None


def shown(document: dict[str, Any], *hidden: str) -> dict[str, Any]:
    """A document as its owner sees it."""
    return {name: value for name, value in document.items() if name not in ("owner", *hidden)}
