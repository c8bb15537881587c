"""One file from a model hub into the hub's own cache, continuing where an earlier attempt stopped.

The cache is the one that other programs share: content under `blobs`, a folder of links for each commit under
`snapshots`, and the commit of each branch under `refs`. The downloads are ours because the hub library's own
start anew after every interruption of the program.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath

from kandinsky.core.errors import HubError

Progress = Callable[[str, int, int], None]
"""Told the file's name, its bytes that are here, and its bytes in all."""

RETRIES = 5
CHUNK = 1 << 20
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0


class HubUnreachableError(HubError):
    """No answer from the hub; what is in the cache can still be used."""


@dataclass(frozen=True)
class Repo:
    """A model at one commit on a hub, and the cache its files go to."""

    id: str
    commit: str
    cache: Path
    endpoint: str | None = None
    token: str | None = None

    @property
    def storage(self) -> Path:
        """The model's folder in the cache."""
        return storage_of(self.cache, self.id)

    @property
    def snapshot(self) -> Path:
        """The folder that looks like the repository at this commit."""
        return self.storage / "snapshots" / self.commit


def storage_of(cache: Path, model: str) -> Path:
    """Where the cache keeps everything about a model."""
    return cache / f"models--{model.replace('/', '--')}"


def fetch(repo: Repo, name: str, on_progress: Progress | None = None) -> Path:
    """Makes sure that the file `name` of a repository is in the cache, and returns its path there.

    A file that is there costs no request. Raises HubError when it cannot be had.
    """
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise HubError(f"{repo.id} lists a file outside itself: {name!r}.", "Do not trust this repository.")
    pointer = repo.snapshot.joinpath(*parts)
    if pointer.exists():
        return pointer
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo.id, name, revision=repo.commit, endpoint=repo.endpoint)
    with hub_errors(repo.id, repo.commit, name):
        told = get_hf_file_metadata(url, token=repo.token, timeout=CONNECT_SECONDS, endpoint=repo.endpoint)
        if not told.etag or not re.fullmatch(r"[\w.-]+", told.etag):
            raise HubError(f"The hub names no version of {repo.id}/{name}.", "Is HF_ENDPOINT a model hub?")
        blob = repo.storage / "blobs" / told.etag
        lock = repo.cache / ".locks" / repo.storage.name / f"{told.etag}.lock"
        for folder in (blob.parent, pointer.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        # The lock is the one that the hub library takes for the same content.
        with import_module("huggingface_hub.utils").WeakFileLock(lock):
            if not blob.exists():
                _Download(repo, name, url, blob, told.size, on_progress).run()
            _link(blob, pointer)
    if on_progress is not None:
        on_progress(name, blob.stat().st_size, blob.stat().st_size)
    return pointer


@dataclass(frozen=True)
class _Download:
    """A transfer of one content to `blob`, by way of a partial file that outlives the program."""

    repo: Repo
    name: str
    url: str
    blob: Path
    size: int | None
    on_progress: Progress | None

    @property
    def partial(self) -> Path:
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    def run(self) -> None:
        resumed = self._here() > 0
        free = shutil.disk_usage(self.blob.parent).free
        if self.size is not None and self.size - self._here() > free:
            raise HubError(
                f"{self.repo.id}/{self.name} needs {self.size - self._here()} more bytes, but "
                f"{self.blob.parent} has {free} left.",
                "Make room, or set HF_HOME to another disk.",
            )
        failures = 0
        while self.size is None or self._here() != self.size:
            before, reason = self._here(), None
            try:
                if self._stream(before):
                    break
            except transport_errors() as error:
                reason = error
            resumed = True
            failures = 0 if self._here() > before else failures + 1
            if failures > RETRIES:
                raise HubUnreachableError(
                    f"{self.repo.id}/{self.name} stopped at {self._here()} of {self.size} bytes.",
                    "Try again; it continues there.",
                ) from reason
            time.sleep(min(0.1 * 2**failures, 5.0))
        self._check(resumed)
        self.partial.replace(self.blob)

    def _here(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _stream(self, start: int) -> bool:
        """Appends what comes after byte `start`; False when the server cannot begin there."""
        hub = import_module("huggingface_hub.utils")
        headers = {**hub.build_hf_headers(token=self.repo.token), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = hub.get_session().stream(
            "GET", self.url, headers=headers, follow_redirects=True, timeout=READ_SECONDS
        )
        with request as response:
            if response.status_code == 416:  # the partial file is longer than the content: begin again
                self.partial.unlink()
                return False
            if response.status_code >= 400:
                response.read()
                hub.hf_raise_for_status(response)
            start = start if response.status_code == 206 else 0
            with self.partial.open("ab" if start else "wb") as file:
                for data in response.iter_raw():
                    file.write(data)
                    start += len(data)
                    if self.on_progress is not None:
                        self.on_progress(self.name, start, max(start, self.size or 0))
                file.flush()
                os.fsync(file.fileno())
        return True

    def _check(self, resumed: bool) -> None:
        """Its length and, when several transfers made it, the sum that large files are named after."""
        wrong = self.size is not None and self._here() != self.size
        if resumed and not wrong and re.fullmatch(r"[0-9a-f]{64}", self.blob.name):
            total = hashlib.sha256()
            with self.partial.open("rb") as file:
                while data := file.read(CHUNK):
                    total.update(data)
            wrong = total.hexdigest() != self.blob.name
        if wrong:
            here = self._here()
            self.partial.unlink(missing_ok=True)
            raise HubError(
                f"{self.repo.id}/{self.name} arrived damaged ({here} of {self.size} bytes).", "Try again."
            )


def _link(blob: Path, pointer: Path) -> None:
    if pointer.exists():
        return
    pointer.unlink(missing_ok=True)  # a link whose content was deleted
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # some file systems have no links
        temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}")
        shutil.copyfile(blob, temporary)
        temporary.replace(pointer)


def remember(repo: Repo, revision: str) -> None:
    """Notes that `revision` is this commit, for the time when the hub cannot be asked."""
    if revision == repo.commit or ".." in PurePosixPath(revision).parts:
        return
    path = repo.storage / "refs" / revision
    with suppress(OSError):  # a cache that only others may write to is still good to read
        if not path.is_file() or path.read_text().strip() != repo.commit:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(repo.commit)
            temporary.replace(path)


def transport_errors() -> type[Exception]:
    """What the HTTP client in use raises when a connection fails or breaks."""
    from huggingface_hub.errors import HfHubHTTPError

    # The hub library changed its client between releases; its own error derives from the client's.
    return next(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))


@contextmanager
def hub_errors(model: str, revision: str | None, name: str = "") -> Iterator[None]:
    """Turns what the hub library raises inside the block into one HubError in plain words."""
    from huggingface_hub import errors

    what = f"{model}/{name}" if name else model
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{model} is gated: its owner asks for an agreement first.",
            "Accept it on the model's page, then log in with 'hf auth login' or give a token.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{model} has no revision {revision!r}.", "Check the branch, tag or commit."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{model} has no file {name!r}.", "Is it the right model and revision?") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"The hub has no model {model!r}, or it is private.",
            "Check the spelling; for a private model log in with 'hf auth login' or give a token.",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnreachableError(
            f"{what} is not in the cache.", "HF_HUB_OFFLINE is set; unset it."
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(what, error.response.status_code) from error
    except errors.HFValidationError as error:
        raise HubError(f"{model!r} is no model id: {error}.", "It looks like 'owner/name'.") from error
    except transport_errors() as error:
        raise HubUnreachableError(
            f"The hub does not answer ({type(error).__name__}) for {what}.",
            "Check the connection and HF_ENDPOINT; what is in the cache works with HF_HUB_OFFLINE=1.",
        ) from error
    except OSError as error:
        raise HubError(
            f"{what} cannot be stored: {error.strerror or error}.", "Check the cache folder (HF_HOME)."
        ) from error


def _refusal(what: str, status: int) -> HubError:
    hints: Mapping[int, str] = {
        401: "The token is wrong or has expired; log in with 'hf auth login'.",
        403: "The token does not allow it; ask the owner or use another token.",
        429: "Too many requests; wait a while.",
    }
    if status >= 500:
        return HubUnreachableError(f"The hub failed ({status}) for {what}.", "Try again later.")
    return HubError(f"The hub refused {what} ({status}).", hints.get(status, "Try again later."))
