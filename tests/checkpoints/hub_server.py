"""A model hub on this machine: the part of the hub's file API that a download uses, with faults on demand."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".bin")


@dataclass
class Asked:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    host: str
    query: str = ""


@dataclass
class Published:
    """A repository: the files of each commit, the commit of each branch, and who may read it."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    token: str | None = None
    refusal: tuple[int, str] | None = None


@dataclass
class Hub:
    """What the server holds, what it was asked, and what it shall do wrong."""

    endpoint: str = ""
    repos: dict[str, Published] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    drops: dict[str, list[int]] = field(default_factory=dict)
    """For a file's end of name: after how many bytes each next transfer breaks off."""
    changed: set[str] = field(default_factory=set)
    """Ends of names of files in whose content one bit is another than the hub says."""
    ignores_range: bool = False
    listing: bytes | None = None
    """What the hub answers instead of a listing."""
    packed: bool = False
    """Whether that is compressed, with the header that says so."""
    blob_ids: bool = False
    """Whether the listing names git's hashes of small files, as the real hub does."""
    etag: str | None = None
    commit: str | None = None
    """What headers name instead of a small file's hash, and instead of the commit."""
    endless: bool = False
    dripping: bool = False
    """Whether large content has no end, or comes a byte at a time."""
    failing: int = 0

    def publish(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit to a repository and moves the branch to it; returns the commit's hash."""
        commit = hashlib.sha1(json.dumps([name, sorted(map(repr, files.items()))]).encode()).hexdigest()
        repo = self.repos.setdefault(name, Published({}, {}))
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """The files whose content was asked for, in order, each as often as it was."""
        parts = [a.path.split("/resolve/" if "/resolve/" in a.path else "/cdn/", 1)[1] for a in self.contents]
        return [part.split("/", 1)[1] for part in parts]

    @property
    def contents(self) -> list[Asked]:
        """The requests for content: of small files from the hub, of large ones from where it sends one."""
        return [
            a
            for a in self.asked
            if a.method == "GET"
            and (a.path.startswith("/cdn/") or ("/resolve/" in a.path and not a.path.endswith(LARGE)))
        ]

    def ranges(self) -> list[str | None]:
        """The range of each request for large content, None for the whole."""
        return [a.range for a in self.asked if a.method == "GET" and a.path.startswith("/cdn/")]


def _listed(file: str, data: bytes, blob_ids: bool = False) -> dict[str, object]:
    listed: dict[str, object] = {"rfilename": file, "size": len(data)}
    if blob_ids:
        listed["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if file.endswith(LARGE):
        digest = hashlib.sha256(data).hexdigest()
        listed["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 130}
    return listed


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            with suppress(ConnectionError):  # a reader that has seen enough
                self.answered()

        def answered(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(
                Asked(
                    self.command,
                    path,
                    self.headers["Range"],
                    self.headers["Authorization"],
                    str(self.headers["Host"]),
                    urlsplit(self.path).query,
                )
            )
            if hub.failing:
                return self.reply(hub.failing)
            if path.startswith("/cdn/"):
                return self.content(self.large(path.removeprefix("/cdn/")), path)
            if path.startswith("/api/models/"):
                return self.listing(path.removeprefix("/api/models/"))
            if "/resolve/" in path:
                return self.file(*path.strip("/").split("/resolve/", 1))
            return self.reply(404)

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def allowed(self, name: str) -> Published | None:
            repo = hub.repos.get(name)
            if repo is None:
                # The real hub says the same for what is private and for what does not exist.
                self.reply(401, X_Error_Code="RepoNotFound")
            elif repo.refusal is not None:
                self.reply(repo.refusal[0], X_Error_Code=repo.refusal[1])
            elif repo.token and self.headers["Authorization"] != f"Bearer {repo.token}":
                if self.headers["Authorization"]:
                    self.reply(401, X_Error_Message="Invalid credentials in Authorization header")
                else:
                    self.reply(401, X_Error_Code="RepoNotFound")
            else:
                return repo
            return None

        def commit(self, repo: Published, revision: str) -> str | None:
            found = revision if revision in repo.commits else repo.branches.get(revision)
            if found is None:
                self.reply(404, X_Error_Code="RevisionNotFound")
            return found

        def listing(self, rest: str) -> None:
            name, _, revision = rest.partition("/revision/")
            name, tree, revision = (
                (name, True, name.partition("/tree/")[2]) if "/tree/" in name else (name, False, revision)
            )
            name = name.partition("/tree/")[0]
            repo = self.allowed(name)
            commit = repo and self.commit(repo, revision or "main")
            if not repo or not commit:
                return None
            files = repo.commits[commit]
            if hub.listing is not None:
                packed = {"Content_Encoding": "gzip"} if hub.packed else {}
                return self.reply(200, hub.listing, Content_Type="application/json", **packed)
            siblings = [_listed(file, data, hub.blob_ids) for file, data in files.items()]
            body: object = {"id": name, "sha": commit, "siblings": siblings}
            if tree:
                body = [{"type": "file", "path": f, "size": len(c), "oid": "0" * 40} for f, c in files.items()]
            return self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

        def file(self, name: str, rest: str) -> None:
            revision, _, file = rest.partition("/")
            repo = self.allowed(name)
            commit = repo and self.commit(repo, revision)
            if not repo or not commit:
                return None
            data = repo.commits[commit].get(file)
            if data is None:
                return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            if not file.endswith(LARGE):
                etag = hashlib.sha1(data).hexdigest() if hub.etag is None else hub.etag
                if any(file.endswith(name) for name in hub.changed):
                    data = data[:-1] + bytes([data[-1] ^ 1])
                return self.reply(200, data, ETag=f'"{etag}"', X_Repo_Commit=hub.commit or commit)
            etag = hashlib.sha256(data).hexdigest()
            port = self.server.server_address[1]
            return self.reply(
                302,
                Location=f"http://localhost:{port}/cdn/{etag}/{file}",
                X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=str(len(data)),
                X_Repo_Commit=commit,
            )

        def large(self, path: str) -> bytes:
            etag = path.split("/", maxsplit=1)[0]
            every = (data for r in hub.repos.values() for files in r.commits.values() for data in files.values())
            return next(data for data in every if hashlib.sha256(data).hexdigest() == etag)

        def content(self, data: bytes, path: str) -> None:
            start = 0
            if self.headers["Range"] and not hub.ignores_range:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    return self.reply(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if hub.endless:
                self.send_header("Connection", "close")
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command == "HEAD":
                return None
            if any(path.endswith(name) for name in hub.changed):
                data = data[:-1] + bytes([data[-1] ^ 1])
            drops = next((d for name, d in hub.drops.items() if path.endswith(name) and d), None)
            if hub.dripping:
                while True:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            if hub.endless:
                while True:
                    self.wfile.write(bytes(2**20))
            if drops:
                self.wfile.write(data[start : start + drops.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return None
            self.wfile.write(data[start:])
            return None

    return Handler


@contextmanager
def running() -> Iterator[Hub]:
    """Serves an empty hub on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """An empty hub that this program takes for the real one, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as they are published."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
