"""Downloads one file from a model hub into the shared cache, and verifies its SHA-256."""

import hashlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from kandinsky.core.errors import HubError
from kandinsky.core.files import write_atomically

Progress = Callable[[str, int, int], None]
"""Called with the file's name, its bytes that are here, and its bytes in all."""

CONNECT_SECONDS = 10.0
UNVERIFIED = ".unverified"
"""Suffix of a marker file: the blob's SHA-256 is still to be compared."""
_downloading = ContextVar("_downloading", default=False)


class HubUnreachableError(HubError):
    """No answer from the hub; what is in the cache can still be used."""


@dataclass(frozen=True)
class RemoteFile:
    """The Hub's metadata of a file: bytes, and the SHA-256 of a large one."""

    size: int | None = None
    sha256: str | None = None


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
    from huggingface_hub import hf_hub_download

    for logger in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        logging.getLogger(logger).addFilter(_not_here)
    # It says of a cache without links that it is larger, which needs no answer.
    warnings.filterwarnings("ignore", message=".*uses symlinks by default", module="huggingface_hub")
    begun = _downloading.set(True)
    try:
        hf_hub_download(
            repo.id,
            name,
            revision=repo.commit,
            cache_dir=repo.cache,
            token=repo.token,
            endpoint=repo.endpoint,
            library_name="kandinsky",
            etag_timeout=CONNECT_SECONDS,
            tqdm_class=_bar(name, on_progress),
        )
    finally:
        _downloading.reset(begun)


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


def _bar(name: str, on_progress: Progress | None) -> type:
    """A class of progress bars, as the hub library makes them, that calls `on_progress` instead."""

    class Bar:
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.total, self.done = total or 0, initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def update(self, count: float | None = 1) -> None:
            self.done += int(count or 0)
            if on_progress is not None:
                on_progress(name, self.done, max(self.done, self.total))

        def close(self) -> None:
            """Nothing is shown, so that nothing is to be put away."""

        set_description = set_postfix_str = refresh = lambda self, *_, **__: None

    return Bar


def remember(repo: Repo, revision: str) -> None:
    """Writes the commit of `revision` to the cache, for use without a network."""
    if revision == repo.commit or ".." in PurePosixPath(revision).parts:
        return
    path = repo.storage / "refs" / revision
    with suppress(OSError, HubError):  # a cache that only others may write to is still good to read
        if not path.is_file() or path.read_text().strip() != repo.commit:
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
            return HubError(f"{model!r} is no model id: {error}.", "It looks like 'owner/name'.")
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
