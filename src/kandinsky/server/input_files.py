"""The images that clients have sent, each in a file under the hash of its pixels, for as long as something needs it.

A job needs those that it names while it waits or runs, and for as long as it is in the gallery, from where it can be
repeated. Nobody tells when a form that is being filled in needs one no more: what no job needs is kept for a while
after it was last sent, looked at or asked for.
"""

import asyncio
import hashlib
import io
import logging
import math
import os
import re
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.core.errors import KandinskyError
from kandinsky.core.files import write_atomically
from kandinsky.core.images import Picture, read_image, read_mask
from kandinsky.jobs import store
from kandinsky.jobs.store import State
from kandinsky.server.errors import ApiError
from kandinsky.server.logs import LOGGER
from kandinsky.server.settings import ServerSettings

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(LOGGER)
NEEDING: tuple[State, ...] = ("queued", "running", "done")
HURRY = 3600.0
"""Seconds that an image is kept in any case: a request that names it is queued by then."""
PAUSE = 3600.0
"""Seconds between looks for what nothing needs."""
HASH = re.compile("[0-9a-f]{64}")


class InputFiles:
    """The images that clients have sent: of each owner in a folder of their own.

    `jobs` is the file of the queue, `kept` the seconds that an image which no job needs is kept after its last use,
    `most` the bytes of all.
    """

    def __init__(self, settings: ServerSettings, jobs: Path) -> None:
        self.folder, self.jobs = settings.data / "inputs", jobs
        self.kept, self.most = settings.keep_uploads, settings.most_uploads
        self._using = threading.Lock()
        """Held while a file is found to be there, and while one is found to be old and removed."""
        self._tidying = threading.Lock()
        """Held while all of them are looked through: never by two at once."""
        self._bytes = 0
        """Of all files, also of those that are being written."""
        self._since: dict[Path, int] = {}
        """The bytes of each file that was begun since the last look, or that it did not see."""
        self._writing: set[Path] = set()
        self._looked = -math.inf

    def folder_of(self, owner: str) -> Path:
        """Where the images of an owner lie."""
        return self.folder / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def keep(self, image: "Image", owner: str, *, mask: bool = False) -> Picture:
        """The image as an input of a request, in a file that holds its pixels and nothing else.

        Its path is beside `folder`: where the server keeps it is nobody's business, and requests are told to others.
        Raises ApiError 507 where there is no room.
        """
        picture = read_mask(image) if mask else read_image(image)
        path = self.folder_of(owner) / f"{picture.sha256}.png"
        if not self._used(path):
            made = io.BytesIO()
            picture.image.save(made, format="PNG")
            data = made.getvalue()
            self._make_room(path, len(data))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
            finally:
                self._written(path)
        return Picture(picture.image, str(path.relative_to(self.folder)))

    def find(self, owner: str, name: str) -> Path | None:
        """The file of an image that an owner has sent, by its hash; None where there is none."""
        # A name never becomes a path before it looks like one.
        path = self.folder_of(owner) / f"{name}.png"
        return path if HASH.fullmatch(name) and self._used(path) else None

    async def tidy_always(self) -> None:
        """Removes what nothing needs, now and every hour; runs until it is cancelled."""
        while True:
            await asyncio.to_thread(self._look, self.kept, 0.0)
            await asyncio.sleep(PAUSE)

    def tidy(self, kept: float) -> None:
        """Removes what no job needs and nobody has used for so many seconds, and what writes that were cut off left."""
        with self._tidying:
            self._tidy(kept)

    def _look(self, kept: float, pause: float) -> None:
        """Tidies, unless somebody has within the last `pause` seconds; waits for one who does."""
        with self._tidying:
            if time.monotonic() - self._looked < pause:
                return
            try:
                self._tidy(kept)
            except (KandinskyError, OSError) as error:
                log.error("images that nothing needs are still there: %s", type(error).__name__)

    def _tidy(self, kept: float) -> None:
        try:
            with closing(store.open_store(self.jobs)) as db:
                texts = store.requests(db, NEEDING, holding='"sha256"')
                needed = {name for text in texts for name in HASH.findall(text)}
            left = {}
            for folder, _, names in os.walk(self.folder):
                for path in (Path(folder, name) for name in names):
                    part = path.suffix == ".part"
                    size = self._left(path, HURRY if part else kept, needed)
                    # What is being written counts by the name that it gets.
                    if size is not None and not part:
                        left[path] = size
            with self._using:
                unseen = {path: size for path, size in self._since.items() if path not in left}
                self._since = {path: size for path, size in unseen.items() if path in self._writing or path.is_file()}
                self._bytes = sum(left.values()) + sum(self._since.values())
        finally:
            self._looked = time.monotonic()

    def _left(self, path: Path, kept: float, needed: set[str]) -> int | None:
        """The bytes of a file that stays; None for one that is removed, here or by others."""
        with self._using:
            try:
                found = path.stat()
            except FileNotFoundError:
                return None
            # Younger than any queued request that was not seen: whoever names an image uses it first.
            if path.stem in needed or time.time() - found.st_mtime < kept:
                return found.st_size
            path.unlink(missing_ok=True)
            return None

    def _used(self, path: Path) -> bool:
        """Whether a file is there; if so it has been used now."""
        with self._using:
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            return True

    def _make_room(self, path: Path, size: int) -> None:
        """Counts a file that is to be written; ApiError 507 where it is too much, also without what nothing needs."""
        if math.isinf(self._looked):
            self._look(self.kept, 60)
        if self._reserved(path, size):
            return
        self._look(min(HURRY, self.kept), 60)
        if not self._reserved(path, size):
            raise ApiError(
                507,
                f"The images that were sent fill {self._bytes / 1e6:.0f} MB, and {self.most / 1e6:.0f} MB are taken. "
                "Those that no job names make room in an hour; delete images that were made of others.",
                code="uploads_full",
                headers={"retry-after": "600"},
            )

    def _reserved(self, path: Path, size: int) -> bool:
        with self._using:
            if path not in self._writing:
                if self._bytes + size > self.most:
                    return False
                self._bytes += size - self._since.pop(path, 0)
                self._since[path] = size
                self._writing.add(path)
            return True

    def _written(self, path: Path) -> None:
        """Ends the writing of a file; gives its room back where it is not there."""
        with self._using:
            self._writing.discard(path)
            if not path.is_file():
                self._bytes -= self._since.pop(path, 0)
