"""From a model's name to a local folder; only the files that will be read are downloaded."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky.checkpoints.files import INDEX, Json, components_of, read_json
from kandinsky.checkpoints.hub_download import (
    CONNECT_SECONDS,
    HubUnreachableError,
    Progress,
    RemoteFile,
    Repo,
    fetch,
    hub_errors,
    remember,
    storage_of,
    unverified_files,
)
from kandinsky.checkpoints.original_hub import HALVES, inside, plan_original, release_of, weights_in
from kandinsky.checkpoints.weight_files import is_small
from kandinsky.core.errors import CheckpointError, HubError, nearest, shortened
from kandinsky.core.files import is_there, local
from kandinsky.core.validation import shown

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

Planner = Callable[[Sequence[str], Callable[[str], Path]], Iterable[str]]
"""The files that are needed, in order, from the names of all; the second argument downloads one of them."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LONGEST_ID = 200
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"(?!/)[\w./+@-]{1,200}(?<!/)", re.ASCII)
_WEIGHTLESS = re.compile(r"Tokenizer|Scheduler|Processor|Extractor")


@dataclass(frozen=True)
class CachedModel:
    """A model in the hub's cache: its id, its newest folder, and its bytes on the disk in all."""

    id: str
    path: Path
    bytes: int


def resolve(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    components: Iterable[str] | None = None,
    halves: Iterable[str] = HALVES,
    weights: bool = True,
    token: str | None = None,
    on_progress: Progress | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Returns the local folder of `model`: itself when it is one, else a snapshot in the Hub's cache.

    Downloaded are the model index, the README, and for each component (those named, or all) its small files and the
    weights of one `variant`; of original files, those of the `halves` ("decoder", "prior"). Without `weights` only the
    small files of a folder in diffusers layout are. A commit hash as `revision`, or HF_HUB_OFFLINE, needs no network
    when all is in the cache; otherwise the Hub looks up the branch's commit, and the cache serves when it does not
    answer. Raises HubError.
    """
    if is_there(path := local(model)):
        return path
    name = str(model)
    if isinstance(model, Path) or not _ID.fullmatch(name) or ".." in name or len(name) > LONGEST_ID:
        named = shortened(repr(name), LONGEST_ID)
        raise HubError(
            f"{named} is neither a folder on this machine nor a hub id.", "A hub id looks like 'owner/name'."
        )
    chosen = None if components is None else tuple(components)

    def plan(files: Sequence[str], get: Callable[[str], Path]) -> Iterable[str]:
        if INDEX in files:
            small, large = plan_files(files, read_json(get(INDEX)), variant, chosen, name)
            return small + large if weights else small
        release = release_of(files)
        if release is None or chosen is not None:
            raise HubError(
                f"{name} has no {INDEX}.", "It is neither a model in diffusers layout nor an original release of one."
            )
        return plan_original(files, release, variant, tuple(halves), name)

    return _obtain(_Revision(name, revision, cache, endpoint, token), plan, on_progress, whole=weights)


def resolve_files(
    model: str,
    names: Iterable[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    on_progress: Progress | None = None,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Returns a snapshot with the named files of the Hub's repository `model`, whatever its layout; see `resolve`."""
    wanted = list(names)
    return _obtain(_Revision(model, revision, cache, endpoint, token), lambda *_: wanted, on_progress)


def list_files(model: str, *, revision: str | None = None, token: str | None = None) -> list[str]:
    """The names of all files of a repository; of the cached ones when the Hub does not answer. HubError when there are
    none."""
    wanted = _Revision(model, revision, token=token)
    found = wanted.snapshot()
    known = files_in(found) if found is not None else []
    try:
        return list(wanted.ask(names_only=True).files)
    except HubUnreachableError:
        if not known:
            raise
        return known


@dataclass(frozen=True)
class _Revision:
    """A revision of a model, None being its main branch, in a cache (by default the Hub's) and at an endpoint."""

    model: str
    revision: str | None = None
    cache: Path | None = None
    endpoint: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise HubError(f"{shown(self.revision)} is not a revision.", "Give a branch, a tag or a commit.")
        if not _ID.fullmatch(self.model) or ".." in self.model or len(self.model) > LONGEST_ID:
            raise HubError(f"{shown(self.model)} is not a hub id.", "A hub id looks like 'owner/name'.")

    @property
    def is_commit(self) -> bool:
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def snapshot(self) -> Path | None:
        """Its folder in the cache, whatever is in it."""
        storage = storage_of(_root(self.cache), self.model)
        commit = self.revision or "main"
        if not self.is_commit:
            ref = storage / "refs" / commit
            if not ref.is_file():
                return None
            commit = ref.read_bytes().decode("ascii", "replace").strip()
            if not _COMMIT.fullmatch(commit):
                return None
        return storage / "snapshots" / commit

    def cached(self, plan: Planner) -> Path | None:
        """Its folder in the cache when all that is needed is in it."""
        snapshot = self.snapshot()
        if snapshot is not None:
            with suppress(CheckpointError):
                needed = [snapshot / name for name in plan(files_in(snapshot), snapshot.joinpath)]
                unverified = unverified_files(storage_of(_root(self.cache), self.model))
                if all(path.is_file() and unverified.isdisjoint((path, path.resolve())) for path in needed):
                    return snapshot
        return None

    def ask(self, names_only: bool = False) -> Repo:
        """Its commit with the Hub's metadata of its files; HubUnreachableError offline."""
        from huggingface_hub import HfApi, constants

        root = _root(self.cache)
        if constants.HF_HUB_OFFLINE:
            raise HubUnreachableError(
                f"{self.model} ({self.revision or 'main'}) is not in the cache {root}, or not all of it.",
                "HF_HUB_OFFLINE is set; unset it to download.",
            )
        with hub_errors(self.model, self.revision), _sound_listing(self.model):
            api = HfApi(endpoint=self.endpoint, token=self.token, library_name="kandinsky")
            info = api.model_info(
                self.model, revision=self.revision, timeout=CONNECT_SECONDS, files_metadata=not names_only
            )
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise HubError(f"The hub names no commit of {self.model}.", "Is HF_ENDPOINT a model hub?")
        with _sound_listing(self.model):
            files = {file.rfilename: _remote(file) for file in info.siblings or []}
            if not all(isinstance(name, str) and name for name in files):
                raise ValueError("a file has no name")
        return Repo(self.model, info.sha, root, self.endpoint, self.token, files)


@contextmanager
def _sound_listing(model: str) -> Iterator[None]:
    """Turns what the hub library raises for an answer that is no listing into HubError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError) as error:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        if isinstance(error, HfHubHTTPError | HFValidationError):
            raise
        said = "The hub's answer for {} is not a listing of a model ({})."
        raise HubError(said.format(model, type(error).__name__), "Is HF_ENDPOINT a model hub?") from error


def _remote(file: "RepoSibling") -> RemoteFile:
    """What the Hub says of a file; ValueError for what cannot be."""
    sha256 = None if file.lfs is None else file.lfs.sha256
    if file.size is not None and (type(file.size) is not int or file.size < 0):
        raise ValueError("a size")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError("a SHA-256")
    git_sha1 = file.blob_id if isinstance(file.blob_id, str) and _COMMIT.fullmatch(file.blob_id) else None
    return RemoteFile(file.size, sha256, git_sha1)


def _root(cache: Path | None) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) if cache is None else cache


def _obtain(wanted: _Revision, plan: Planner, on_progress: Progress | None, whole: bool = True) -> Path:
    """The snapshot with the planned files; a `whole` one becomes the cached commit of its branch."""
    if wanted.is_commit and (found := wanted.cached(plan)):
        return found
    try:
        repo = wanted.ask()
        for name in plan(list(repo.files), lambda name: fetch(repo, name, on_progress)):
            fetch(repo, name, on_progress)
        # Only now: until all is here, an older commit that is complete serves better without a network.
        if whole:
            remember(repo, wanted.revision or "main")
        return repo.snapshot
    except HubUnreachableError:
        found = wanted.cached(plan)
        if found is None:
            raise
        return found


def plan_files(
    files: Iterable[str], model_index: Json, variant: str | None, components: Iterable[str] | None, where: str
) -> tuple[list[str], list[str]]:
    """The files that a model needs: small ones, and weights. HubError for an unknown component, and for missing weights
    or variants (with those that are there)."""
    names = sorted(files)
    classes = components_of(model_index)
    small = [name for name in (INDEX, "README.md") if name in names]
    weights: list[str] = []
    for component in classes if components is None else components:
        own = inside(names, component)
        if not own:
            hint = "The model is incomplete." if component in classes else nearest(component, classes)
            raise HubError(f"{where} has no files of the component {component!r}.", hint)
        small += [f"{component}/{n}" for n in own if is_small(n)]
        choice = weights_in(names, component, variant, where)
        if choice is None:
            if component in classes and not _WEIGHTLESS.search(classes[component]):
                raise HubError(f"{where}/{component} holds no weights.", "The model is incomplete.")
            continue
        if choice.index is not None:
            small.append(f"{component}/{choice.index}")
            stated = {int(m[1]) for file in choice.files if (m := re.search(r"-of-(\d+)", file))}
            if stated != {len(choice.files)}:
                raise HubError(
                    f"{where}/{component} has {len(choice.files)} of {max(stated, default=1)} shards.",
                    "The model is incomplete.",
                )
        weights += [f"{component}/{file}" for file in choice.files]
    return small, weights


def files_in(folder: Path) -> list[str]:
    """The names of all files below a folder, links followed: one without content does not count."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def cached_models(cache: Path | None = None) -> list[CachedModel]:
    """The models of this family in the Hub's cache by id, with the snapshot of the main branch, or the newest one.
    Dangling links are skipped, so that what is left of a model is counted too."""
    models = []
    for storage in _root(cache).glob("models--*--*"):
        snapshots = sorted(storage.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
        family = [path for path in snapshots if _is_family(path)]
        if not family:
            continue
        name = storage.name.removeprefix("models--").replace("--", "/", 1)
        main = _Revision(name, cache=cache).snapshot()
        # Links count as what they lead to, once; without links the files lie in the snapshots.
        files = {path.resolve() for kind in ("blobs", "snapshots") for path in (storage / kind).rglob("*")}
        size = sum(path.stat().st_size for path in files if path.is_file())
        models.append(CachedModel(name, main if main and main in family else family[-1], size))
    return sorted(models, key=lambda model: model.id)


def _is_family(folder: Path) -> bool:
    if not (folder / INDEX).is_file():
        return release_of(files_in(folder)) is not None
    with suppress(CheckpointError):
        return "Kandinsky" in str(read_json(folder / INDEX).get("_class_name", ""))
    return False
