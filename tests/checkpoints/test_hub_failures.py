"""Downloads that go wrong, against a hub on this machine."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from kandinsky.checkpoints import hub_download
from kandinsky.checkpoints.hub import resolve
from kandinsky.core.errors import HubError
from tests.checkpoints.hub_model import FILES, MODEL, UNET
from tests.checkpoints.hub_server import Hub

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_a_silent_or_failing_hub_is_replaced_by_the_cache(hub: Hub, load) -> None:
    first = load()
    hub.failing = 503
    assert load() == first
    with pytest.raises(HubError, match="503"):
        load(variant="fp16")
    hub.failing = 0
    hub.endpoint = "http://127.0.0.1:9"
    assert load() == first
    with pytest.raises(HubError, match=r"does not answer.*painters/unknown"):
        load("painters/unknown")


def test_a_broken_connection_resumes(hub: Hub, load) -> None:
    hub.drops["unet/diffusion_pytorch_model.safetensors"] = [1000, 500, 0, 0, 200]
    folder = load()
    assert (folder / UNET).read_bytes() == FILES[UNET]
    ranges = [r for r in hub.ranges() if r]
    assert ranges == ["bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=1500-", "bytes=1700-"]


def test_a_stopped_program_leaves_nothing_and_begins_anew(hub: Hub, load, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(file: str, done: int, _: int) -> None:
        if file == UNET and done >= 1000:
            raise StopError

    with pytest.raises(StopError):
        load(on_progress=stop)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.asked.clear()
    folder = load()
    assert hub.fetched() == [UNET]
    assert (folder / UNET).read_bytes() == FILES[UNET]


def test_a_killed_download_is_not_served(hub: Hub, load, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.drops[UNET] = [100] + [0] * 20
    with pytest.raises(HubError, match=r"does not answer.*unet/diffusion_pytorch_model"):
        load()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="not all of it"):
        load()


def test_a_changed_bit_of_the_right_length_is_found_out(hub: Hub, load, tmp_path: Path) -> None:
    """The hub names the sum of every large file."""
    hub.changed.add(UNET)
    with pytest.raises(HubError, match=rf"{UNET} arrived damaged.*SHA-256"):
        load()
    assert not list((tmp_path / "cache").rglob(UNET))
    hub.changed.clear()
    hub.asked.clear()
    assert (load() / UNET).read_bytes() == FILES[UNET]
    assert hub.fetched() == [UNET]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_that_a_stop_left_unverified_is_not_served(
    hub: Hub, load, monkeypatch: pytest.MonkeyPatch, links: bool, damaged: bool, pinned: bool
) -> None:
    """The file is at its place before its sum is known: a program may be stopped between the two."""
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        def refuse(*_: object, **__: object) -> None:
            raise OSError("no links here")

        if not links:
            monkeypatch.setattr(os, "symlink", refuse)
        patch.setattr(hub_download.hashlib, "file_digest", stop)
        hub.changed |= {UNET} if damaged else set()
        with pytest.raises(KeyboardInterrupt):
            load(components=["unet"])
    hub.changed.clear()
    commit = hub.repos[MODEL].branches["main"]
    options: dict[str, object] = {"components": ["unet"], **({"revision": commit} if pinned else {})}
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="not in the cache"):
            load(**{**options, "revision": commit})
    hub.asked.clear()
    if damaged:
        with pytest.raises(HubError, match=rf"{UNET} arrived damaged"):
            load(**options)
        assert hub.fetched() == []
    assert (load(**options) / UNET).read_bytes() == FILES[UNET]
    assert hub.fetched() == ([UNET] if damaged else [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (load(**{**options, "revision": commit}) / UNET).is_file()


def test_a_server_without_ranges_begins_anew(hub: Hub, load) -> None:
    hub.ignores_range = True
    hub.drops[UNET] = [1000]
    assert (load() / UNET).read_bytes() == FILES[UNET]
    assert [r for r in hub.ranges() if r] == ["bytes=1000-"]


def test_access(hub: Hub, load) -> None:
    with pytest.raises(HubError, match=r"no model 'painters/none', or it is private.*token"):
        load("painters/none")
    hub.repos[MODEL].token = "hf_secret"
    with pytest.raises(HubError, match="or it is private"):
        load()
    with pytest.raises(HubError, match=r"\(401\).*token is wrong"):
        load(token="hf_wrong")
    folder = load(token="hf_secret")
    assert (folder / UNET).is_file()
    at_home, elsewhere = [[a for a in hub.asked if a.host.startswith(h)] for h in ("127.0.0.1", "localhost")]
    assert {a.authorization for a in at_home} >= {"Bearer hf_secret"}
    assert elsewhere
    assert {a.authorization for a in elsewhere} == {None}  # the token stays with the hub


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "GatedRepo"), r"is gated.*Accept it"),
        ((403, ""), r"\(403\).*does not allow"),
        ((429, ""), r"\(429\).*wait"),
        ((500, ""), r"failed \(500\)"),
        ((418, ""), r"\(418\)"),
    ],
)
def test_refusals(hub: Hub, load, refusal: tuple[int, str], said: str) -> None:
    hub.repos[MODEL].refusal = refusal
    with pytest.raises(HubError, match=said) as caught:
        load()
    assert MODEL in str(caught.value)


def test_models_that_are_not_whole(hub: Hub, load) -> None:
    def without(*gone: str) -> None:
        hub.publish(MODEL, {name: content for name, content in FILES.items() if name not in gone})

    without("model_index.json")
    with pytest.raises(HubError, match=r"no model_index\.json"):
        load()
    without("text_encoder/model-00002-of-00002.safetensors")
    with pytest.raises(HubError, match="1 of 2 shards"):
        load()
    without(*(name for name in FILES if name.startswith("movq/diffusion")))
    with pytest.raises(HubError, match=r"movq holds no weights"):
        load()
    without(*(name for name in FILES if name.startswith("movq/")))
    with pytest.raises(HubError, match=r"no files of the component 'movq'.*incomplete"):
        load()
    hub.publish(MODEL, {**FILES, "model_index.json": b"<html>"})
    with pytest.raises(Exception, match=r"model_index\.json cannot be read"):
        load()
    hub.publish(MODEL, FILES)
    with pytest.raises(HubError, match=r"variant 'fp8'.*the plain one, 'fp16'"):
        load(variant="fp8")
    with pytest.raises(HubError, match="Did you mean 'unet'"):
        load(components=["unets"])
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_a_file_that_vanished_between_two_requests(hub: Hub, load) -> None:
    def vanish(file: str, *_: int) -> None:
        if file == "unet/config.json":
            hub.repos[MODEL].commits[hub.repos[MODEL].branches["main"]].pop(UNET, None)

    with pytest.raises(HubError, match=f"no file '{UNET}'"):
        load(on_progress=vanish)


@pytest.mark.parametrize("name", ["unet/../../../escape.json", "unet/..\\escape.json"])
def test_a_file_outside_the_repository_is_refused(hub: Hub, load, tmp_path: Path, name: str) -> None:
    repo = hub_download.Repo(MODEL, "0" * 40, tmp_path / "cache", hub.endpoint)
    with pytest.raises(HubError, match="outside itself"):
        hub_download.fetch(repo, name)
    assert hub.asked == []


def test_a_full_disk_and_a_closed_cache(hub: Hub, load, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hub_download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2999}))
    with pytest.raises(HubError, match="needs 3000 more bytes"):
        load()
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="cannot be stored"):
        resolve(MODEL, endpoint=hub.endpoint, cache=tmp_path / "file")
