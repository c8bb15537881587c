"""A hub that lies: nothing lands under a wrong name, nothing outside the cache, and one line says what was wrong."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kandinsky.checkpoints import hub_download
from kandinsky.checkpoints.hub import resolve
from kandinsky.core.errors import HubError
from tests.checkpoints.hub_model import FILES, MODEL, UNET
from tests.checkpoints.hub_server import Hub, connected

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listing(**changes: object) -> bytes:
    files = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
    return json.dumps({"id": MODEL, "sha": COMMIT, "siblings": files, **changes}).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with connected(monkeypatch, tmp_path / "cache") as hub:
        hub.publish(MODEL, FILES)
        yield hub


def refused(tmp_path: Path, model: str = MODEL, **options: str) -> str:
    """The line that says what was wrong; nothing but the cache has changed, which has no file of the wrong content."""
    with pytest.raises(HubError) as caught:
        resolve(model, **options)  # type: ignore[arg-type]
    said = str(caught.value)
    assert len(said) <= 500
    assert said.isprintable()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])
    for path in tmp_path.glob("cache/models--*/snapshots/*/**/*"):
        if path.is_file():
            name = path.relative_to(path.parents[len(path.parts) - path.parts.index("snapshots") - 3]).as_posix()
            assert path.read_bytes() == FILES.get(name), name
    return said


LISTINGS = {
    "empty": b"",
    "html": b"<html>sorry</html>",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "deep": b"[" * 100_000,
    "bad utf8": b'{"id": "\xff"}',
    "no id": json.dumps({"sha": COMMIT}).encode(),
    "sha int": listing(sha=3),
    "sha short": listing(sha="../../x"),
    "siblings int": listing(siblings=3),
    "siblings of ints": listing(siblings=[1, 2]),
    "no rfilename": listing(siblings=[{"size": 1}]),
    "rfilename null": listing(siblings=[{"rfilename": None}]),
    "date": listing(lastModified="zzz"),
    "sha256": listing(
        siblings=[
            {"rfilename": "model_index.json", "size": 1, "lfs": {"size": 1, "sha256": "../../../x", "pointerSize": 1}}
        ]
    ),
    "size": listing(siblings=[{"rfilename": "model_index.json", "size": -5}]),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listings(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.listing = LISTINGS[name]
    refused(tmp_path)


def test_a_listing_that_is_small_only_while_packed(hub: Hub, tmp_path: Path) -> None:
    hub.listing, hub.packed = gzip.compress(b" " * 50_000_000), True
    refused(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["unet/../../../evil.json", "/evil.json", "unet/..\\..\\evil.json", "unet/\x00evil.json", f"unet/{'a' * 300}.json"],
)
def test_names_of_files(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.publish(MODEL, {**FILES, name: b"{}"})
    try:
        resolve(MODEL)
    except HubError:
        refused(tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("etag", ["..", ".", "../../../evil", "/evil", "é", "a b", "", "a" * 300, "con:x"])
def test_etags(etag: str, hub: Hub, tmp_path: Path) -> None:
    hub.etag = etag
    assert "Do not trust it" in refused(tmp_path)


def test_one_etag_for_all_files(hub: Hub, tmp_path: Path) -> None:
    hub.etag, hub.blob_ids = "con", True
    assert "arrived damaged" in refused(tmp_path)


@pytest.mark.parametrize("commit", ["../../../evil", "main", "/evil", COMMIT])
def test_another_commit_in_a_header(commit: str, hub: Hub, tmp_path: Path) -> None:
    hub.commit = commit
    refused(tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", [UNET, "unet/config.json"])
def test_one_bit(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.changed, hub.blob_ids = {name}, True
    assert "arrived damaged" in refused(tmp_path)
    hub.changed = set()
    assert (resolve(MODEL) / name).read_bytes() == FILES[name]


def test_content_without_end(hub: Hub, tmp_path: Path) -> None:
    hub.endless = True
    said = refused(tmp_path)
    assert "longer than" in said
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100_000_000


def test_a_byte_at_a_time(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "PATIENCE", 0.5)
    hub.dripping = True
    assert "too slowly" in refused(tmp_path)


@pytest.mark.parametrize(
    "revision",
    ["/evil", "../../evil", "a/../../evil", "\x00", "main\n", " ", "HEAD~1", "x" * 300, "é", "", "a/", "-\n"],
)
def test_revisions(revision: str, hub: Hub, tmp_path: Path) -> None:
    assert "is not a revision" in refused(tmp_path, revision=revision)
    assert hub.asked == []


@pytest.mark.parametrize("model", ["a" * 5000, "o/" + "m" * 300, "~nobody-there/x", "a/b\n", "\x00/x", "o/m.."])
def test_models(model: str, hub: Hub, tmp_path: Path) -> None:
    refused(tmp_path, model)
    assert hub.asked == []


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"../../../etc", b"x" * 100])
def test_a_reference_that_is_no_commit(
    content: bytes, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolve(MODEL)
    (found.parents[1] / "refs" / "main").write_bytes(content)
    assert resolve(MODEL) == found
    (found.parents[1] / "refs" / "main").write_bytes(content)
    hub.failing = 500
    with pytest.raises(HubError):
        resolve(MODEL)
