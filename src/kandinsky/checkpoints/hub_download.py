"""Downloads one file from a model hub into the shared cache, and verifies its SHA-256."""

import hashlib
import logging
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

from kandinsky.core.errors import HubError
from kandinsky.core.files import write_atomically

Progress = Callable[[str, int, int], None]
"""Called with the file's name, its bytes that are here, and its bytes in all."""

CONNECT_SECONDS = 10.0
SLOWEST, PATIENCE = 1024, 60.0
"""Bytes a second that a download must have brought after so many seconds, and again after each as many."""
LONGEST_NAME = 255
_ETAG = re.compile(r"[A-Za-z0-9_-]{1,128}")
UNVERIFIED = ".unverified"
"""Suffix of a marker file: the blob's SHA-256 is still to be compared."""
_downloading = ContextVar("_downloading", default=False)


class HubUnreachableError(HubError):
    """No answer from the hub; what is in the cache can still be used."""


@dataclass(frozen=True)
class RemoteFile:
    """The Hub's metadata of a file: bytes, the SHA-256 of a large one, and git's SHA-1 of a small one."""

    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    def fault(self, path: Path) -> str | None:
        """How a file that arrived differs from what the Hub says, None where it does not; SHA-256 is not compared."""
        if not path.is_file():
            return "it is not a file"
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"it has {size} bytes, the hub says {self.size}"
        if self.sha256 is None and self.git_sha1 is not None:
            found = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()
            if found != self.git_sha1:
                return f"its SHA-1 is {found}, the hub names {self.git_sha1}"
        return None


@dataclass(frozen=True)
class Repo:
    """A model at one commit on a hub with its files, and the cache that they go to."""

    id: str
    commit: str
    cache: Path
    endpoint: str | None = None
    token: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        """The model's folder in the cache."""
        return storage_of(self.cache, self.id)

    @property
    def snapshot(self) -> Path:
        """The folder that looks like the repository at this commit."""
        return self.storage / "snapshots" / self.commit


def storage_of(cache: Path, model: str) -> Path:
    """A model's folder in the cache."""
    return cache / f"models--{model.replace('/', '--')}"


def fetch(repo: Repo, name: str, on_progress: Progress | None = None) -> Path:
    """Downloads the file `name` of a repository unless the cache has it; returns its path there.

    A broken connection is taken up again within one call. Raises HubError when the file cannot be had, and when the
    SHA-256 of a large one differs; a file that a stopped program left unverified is verified first.
    """
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise HubError(f"{repo.id} lists a file outside itself: {name!r}.", "Do not trust this repository.")
    if not name.isprintable() or any(len(part.encode()) > LONGEST_NAME for part in parts):
        raise HubError(f"{repo.id} lists {name[:80]!r}, which is not a file name.", "Do not trust this repository.")
    path = repo.snapshot.joinpath(*parts)
    stated = repo.files.get(name, RemoteFile())
    blob = repo.storage / "blobs" / (stated.sha256 or name)
    unverified = blob.with_name(f"{blob.name}{UNVERIFIED}")
    if path.exists() and not unverified.exists():
        return path
    if not path.exists():
        with hub_errors(repo.id, repo.commit, name):
            if not blob.exists():
                _check_space(repo, name, stated.size)
                if stated.sha256 is not None:
                    unverified.parent.mkdir(parents=True, exist_ok=True)
                    unverified.write_text(path.relative_to(repo.storage).as_posix(), "utf-8")
            _download(repo, name, on_progress)
        if fault := stated.fault(path):
            for place in (path.resolve(), path):
                if place.is_file() or place.is_symlink():
                    place.unlink(missing_ok=True)
            unverified.unlink(missing_ok=True)
            raise HubError(f"{repo.id}/{name} arrived damaged: {fault}.", "Try again.")
    if stated.sha256 is not None and unverified.exists():
        _verify(repo, name, (path.resolve(), blob, path), stated.sha256)
        unverified.unlink(missing_ok=True)
    if on_progress is not None:
        on_progress(name, path.stat().st_size, path.stat().st_size)
    return path


def unverified_files(storage: Path) -> set[Path]:
    """The files of a model that a stopped program has not verified."""
    files: set[Path] = set()
    for note in storage.glob(f"blobs/*{UNVERIFIED}"):
        with suppress(OSError):  # another program may be done with it just now
            files |= {storage / note.read_text("utf-8"), note.with_suffix("").resolve()}
    return files


def _download(repo: Repo, name: str, on_progress: Progress | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    url = hf_hub_url(repo.id, name, revision=repo.commit, endpoint=repo.endpoint)
    told = get_hf_file_metadata(url, token=repo.token, timeout=CONNECT_SECONDS)
    if told.commit_hash not in (None, repo.commit) or not _ETAG.fullmatch(told.etag or ""):
        # The library names folders and files after both.
        raise HubError(f"The hub names {repo.id}/{name} {told.etag!r} of {told.commit_hash!r}.", "Do not trust it.")
    limit = repo.files.get(name, RemoteFile()).size
    for logger in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        logging.getLogger(logger).addFilter(_not_here)
    # It says of a cache without links that it is larger, which needs no answer.
    warnings.filterwarnings("ignore", message=".*uses symlinks by default", module="huggingface_hub")
    begun = _downloading.set(True)
    download = partial(
        hf_hub_download,
        repo.id,
        name,
        revision=repo.commit,
        cache_dir=repo.cache,
        token=repo.token,
        endpoint=repo.endpoint,
        library_name="kandinsky",
        etag_timeout=CONNECT_SECONDS,
        tqdm_class=_bar(name, on_progress, limit),
    )
    try:
        _patiently(download, repo, name)
    finally:
        _downloading.reset(begun)


def _patiently(download: Callable[[], object], repo: Repo, name: str) -> None:
    """Downloads in a thread of its own; HubUnreachableError where almost nothing comes, which no timeout of the hub's
    library sees: each byte begins it anew."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            download()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    known, since = 0, time.monotonic()
    while thread.is_alive():
        thread.join(min(PATIENCE, 1.0))
        if time.monotonic() - since < PATIENCE:
            continue
        # Whether this download grows or another program's of the same file, which it waits for.
        here = sum(path.stat().st_size for path in (repo.storage / "blobs").glob("*.incomplete") if path.is_file())
        if thread.is_alive() and here - known < SLOWEST * PATIENCE:
            raise HubUnreachableError(f"{repo.id}/{name} comes too slowly.", "Try again; it continues there.")
        known, since = here, time.monotonic()
    if raised:
        raise raised[0]


def _not_here(_: logging.LogRecord) -> bool:
    """Filters the Hub library's log records of our own downloads, whose errors are raised in plain words."""
    return not _downloading.get()


def _check_space(repo: Repo, name: str, size: int | None) -> None:
    repo.storage.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(repo.storage).free
    if size is not None and size > free:
        raise HubError(
            f"{repo.id}/{name} needs {size} more bytes, but {repo.storage} has {free} left.",
            "Make room, or set HF_HOME to another disk.",
        )


def _verify(repo: Repo, name: str, places: Sequence[Path], wanted: str) -> None:
    """Raises HubError, and removes the file, when its SHA-256 is not the Hub's."""
    with places[-1].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        for place in places:
            place.unlink(missing_ok=True)
        raise HubError(
            f"{repo.id}/{name} arrived damaged: its SHA-256 is {found}, the hub names {wanted}.", "Try again."
        )


def _bar(name: str, on_progress: Progress | None, limit: int | None = None) -> type:
    """A class of progress bars, as the hub library makes them, that calls `on_progress` instead; HubError for a file
    that is longer than its `limit`."""

    class Bar:
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.total, self.done = total or 0, initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def update(self, count: float | None = 1) -> None:
            self.done += int(count or 0)
            if limit is not None and self.done > limit:
                raise HubError(f"{name} is longer than the {limit} bytes that the hub says.", "Do not trust it.")
            if on_progress is not None:
                on_progress(name, self.done, max(self.done, self.total))

        def close(self) -> None:
            """Nothing is shown, so that nothing is to be put away."""

        set_description = set_postfix_str = refresh = lambda self, *_, **__: None

    return Bar


def remember(repo: Repo, revision: str) -> None:
    """Writes the commit of `revision` to the cache, for use without a network."""
    if revision == repo.commit:
        return
    path = repo.storage / "refs" / revision
    with suppress(OSError, HubError):  # a cache that only others may write to is still good to read
        if not path.is_file() or path.read_bytes().strip() != repo.commit.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, repo.commit.encode())


@contextmanager
def hub_errors(model: str, revision: str | None, name: str = "") -> Iterator[None]:
    """Turns what the hub library raises inside the block into one HubError in plain words."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The hub library changed its HTTP client between releases; its own error derives from the client's.
    transport: type[Exception] = HfHubHTTPError.__mro__[1]
    try:
        yield
    except (OSError, HFValidationError, transport) as error:
        raise _in_words(error, model, revision, name) from error


def _in_words(error: BaseException, model: str, revision: str | None, name: str) -> HubError:  # noqa: PLR0911
    from huggingface_hub import errors

    what = f"{model}/{name}" if name else model
    match error:
        case errors.LocalEntryNotFoundError() if error.__cause__ is not None:
            return _in_words(error.__cause__, model, revision, name)
        case errors.GatedRepoError():
            return HubError(
                f"{model} is gated: its owner asks for an agreement first.",
                "Accept it on the model's page, then log in with 'hf auth login' or give a token.",
            )
        case errors.RevisionNotFoundError():
            return HubError(f"{model} has no revision {revision!r}.", "Check the branch, tag or commit.")
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return HubUnreachableError(f"{what} is not in the cache.", "HF_HUB_OFFLINE is set; unset it.")
        case errors.EntryNotFoundError():
            return HubError(f"{model} has no file {name!r}.", "Is it the right model and revision?")
        case errors.RepositoryNotFoundError():
            return HubError(
                f"The hub has no model {model!r}, or it is private.",
                "Check the spelling; for a private model log in with 'hf auth login' or give a token.",
            )
        case errors.HfHubHTTPError():
            return _refusal(what, error.response.status_code)
        case errors.HFValidationError():
            return HubError(f"{model!r} is not a model id: {error}.", "It looks like 'owner/name'.")
        case OSError() if error.errno is None and name:
            return HubUnreachableError(f"{what} arrived in part: {error}".split("\n")[0], "Try again.")
        case OSError():
            return HubError(f"{what} cannot be stored: {error.strerror or error}.", "Check the cache folder (HF_HOME).")
    return HubUnreachableError(
        f"The hub does not answer ({type(error).__name__}) for {what}.",
        "Check the connection and HF_ENDPOINT; what is in the cache works with HF_HUB_OFFLINE=1.",
    )


def _refusal(what: str, status: int) -> HubError:
    hints: Mapping[int, str] = {
        401: "The token is wrong or has expired; log in with 'hf auth login'.",
        403: "The token does not allow it; ask the owner or use another token.",
        429: "Too many requests; wait a while.",
    }
    if status >= 500:
        return HubUnreachableError(f"The hub failed ({status}) for {what}.", "Try again later.")
    return HubError(f"The hub refused {what} ({status}).", hints.get(status, "Try again later."))
