"""Downloads against a hub on this machine: which files are asked for, and what happens when it goes wrong."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from kandinsky.checkpoints import hub_download
from kandinsky.checkpoints.hub import cached_models, list_files, plan_files, resolve, resolve_files
from kandinsky.core.errors import HubError
from tests.checkpoints.hub_server import Hub, connected, running

MODEL = "painters/kandinsky-tiny"
INDEX = {
    "_class_name": "KandinskyV22Pipeline",
    "_diffusers_version": "0.42.1",
    "movq": ["diffusers", "VQModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
}


def blob(name: str, size: int = 3000) -> bytes:
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // 32 + 1))[:size]


SMALL = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"---\nprior:\n- painters/prior-tiny\n---\n",
    "movq/config.json": b'{"_class_name": "VQModel"}',
    "scheduler/scheduler_config.json": b'{"n": 1}',
    "text_encoder/config.json": b'{"n": 2}',
    "tokenizer/merges.txt": b"#version: 0.2\n",
    "tokenizer/special_tokens_map.json": b'{"n": 3}',
    "tokenizer/tokenizer_config.json": b'{"n": 4}',
    "tokenizer/vocab.json": b'{"a": 0}',
    "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
}
PLAIN = [
    "movq/diffusion_pytorch_model.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
]
HALF = [
    "movq/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
]
NEVER = [
    ".gitattributes",
    "movq/diffusion_pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/flax_model.msgpack.index.json",
    "text_encoder/model.onnx",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "safety_checker/model.safetensors",
    "images/fox.png",
    "kandinsky.ckpt",
    "unet/tricks.py",
]
SHARD_INDEX = "text_encoder/model.safetensors.index.json"
FILES = {**SMALL, SHARD_INDEX: b'{"weight_map": {}}', **{name: blob(name) for name in [*PLAIN, *HALF, *NEVER]}}
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        hub.publish(MODEL, FILES)
        yield hub


@pytest.fixture
def load(hub: Hub, tmp_path: Path) -> Callable[..., Path]:
    def call(model: str | Path = MODEL, **options: object) -> Path:
        return resolve(model, endpoint=hub.endpoint, cache=tmp_path / "cache", **options)

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_needed_files_are_fetched_small_ones_first(hub: Hub, load) -> None:
    folder = load()
    fetched = hub.fetched()
    assert sorted(fetched) == sorted([*SMALL, SHARD_INDEX, *PLAIN])
    assert fetched[0] == "model_index.json"
    assert {*fetched[: len(SMALL) + 1]} == {*SMALL, SHARD_INDEX}
    assert contents(folder) == {name: FILES[name] for name in fetched}
    assert folder.name == hub.repos[MODEL].branches["main"]


def test_only_the_files_of_the_variant_are_fetched(hub: Hub, load) -> None:
    folder = load(variant="fp16")
    assert sorted(hub.fetched()) == sorted([*SMALL, *HALF])
    assert sorted(contents(folder)) == sorted([*SMALL, *HALF])


def test_only_the_named_components_are_fetched(hub: Hub, load) -> None:
    load(components=["movq", "tokenizer"])
    assert sorted(hub.fetched()) == [
        "README.md",
        "model_index.json",
        "movq/config.json",
        "movq/diffusion_pytorch_model.safetensors",
        *sorted(name for name in SMALL if name.startswith("tokenizer/")),
    ]


def test_without_weights_the_small_files_are_fetched_and_the_model_does_not_count_as_there(hub: Hub, load) -> None:
    folder = load(weights=False)
    assert sorted(contents(folder)) == sorted([*SMALL, SHARD_INDEX])
    assert not (folder.parent.parent / "refs").exists()
    assert {*hub.fetched()} == {*SMALL, SHARD_INDEX}
    assert sorted(contents(load())) == sorted([*SMALL, SHARD_INDEX, *PLAIN])


def test_pickles_are_fetched_where_there_is_nothing_else(hub: Hub, load) -> None:
    hub.publish("painters/old", {n: c for n, c in FILES.items() if not n.endswith(".safetensors")})
    del hub.repos["painters/old"].commits[hub.repos["painters/old"].branches["main"]][SHARD_INDEX]
    load("painters/old")
    assert sorted(n for n in hub.fetched() if n.endswith((".bin", ".safetensors"))) == [
        "movq/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
    ]


def test_a_folder_on_this_machine_costs_no_request(hub: Hub, load, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert load(tmp_path / "mine") == tmp_path / "mine"
    assert load(str(tmp_path / "mine")) == tmp_path / "mine"
    assert hub.asked == []


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/abs/olute", "a/b/c", "../up", "a b/c", "a/..", ""])
def test_what_is_no_id_is_not_asked_for(hub: Hub, load, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":
        assert load(name) == Path()  # the folder one is in
        return
    with pytest.raises(HubError, match="neither a folder"):
        load(name)
    with pytest.raises(HubError, match="neither a folder"):
        load(tmp_path / "painters" / "kandinsky-tiny")
    assert hub.asked == []


def test_the_second_load_fetches_nothing(hub: Hub, load) -> None:
    first = load()
    hub.asked.clear()
    assert load() == first
    assert [a.path for a in hub.asked] == [f"/api/models/{MODEL}"]
    hub.asked.clear()
    assert load(revision=first.name) == first
    assert hub.asked == []


def test_offline_the_cache_serves(hub: Hub, load, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(components=["movq"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert load(components=["movq"]) == first
    assert load(components=["movq"], revision="main") == first
    for options in ({}, {"components": ["unet"]}, {"components": ["movq"], "variant": "fp16"}):
        with pytest.raises(HubError, match=r"not in the cache.*HF_HUB_OFFLINE"):
            load(**options)
    with pytest.raises(HubError, match="other"):
        load(components=["movq"], revision="other")
    assert hub.asked == []


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


def test_a_pinned_revision_is_honoured(hub: Hub, load) -> None:
    old = load()
    newer = {**FILES, UNET: blob("newer"), "movq/config.json": b'{"new": 1}'}
    commit = hub.publish(MODEL, newer)
    hub.publish(MODEL, {**FILES, UNET: blob("tried")}, branch="trial")
    hub.asked.clear()
    assert load(revision=old.name) == old
    assert hub.asked == []
    assert (load(revision=commit) / UNET).read_bytes() == blob("newer")
    assert sorted(hub.fetched()) == ["movq/config.json", UNET]  # what is the same is not fetched again
    assert (load(revision="trial") / UNET).read_bytes() == blob("tried")
    assert load().name == commit
    with pytest.raises(HubError, match="no revision 'nowhere'"):
        load(revision="nowhere")


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


def test_the_hub_librarys_own_settings_stay(
    hub: Hub, load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloads may overlap: what one changes for all, another would keep. Others' downloads are reported."""
    library = logging.getLogger("huggingface_hub")
    # Another test's library may have made these quieter, or let them keep their records to themselves.
    for logger in (library, logging.getLogger("huggingface_hub.file_download")):
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "disabled", False)
        monkeypatch.setattr(logger, "level", logging.WARNING)
        logger.manager._clear_cache()
    monkeypatch.setattr(library.manager, "disable", logging.NOTSET)
    level, levels = library.level, set()
    hub.drops[UNET] = [100]
    load(on_progress=lambda *_: levels.add((library.level, len(warnings.filters))))
    assert caplog.messages == []
    assert levels == {(level, len(warnings.filters))}
    logging.getLogger("huggingface_hub.file_download").warning("of another's download")
    assert caplog.messages == ["of another's download"]


def test_a_server_without_ranges_begins_anew(hub: Hub, load) -> None:
    hub.ignores_range = True
    hub.drops[UNET] = [1000]
    assert (load() / UNET).read_bytes() == FILES[UNET]
    assert [r for r in hub.ranges() if r] == ["bytes=1000-"]


def test_progress_is_reported(hub: Hub, load) -> None:
    events: list[tuple[str, int, int]] = []
    load(on_progress=lambda *event: events.append(event))
    assert {name for name, _, _ in events} == {*SMALL, SHARD_INDEX, *PLAIN}
    for name in PLAIN:
        steps = [done for file, done, _ in events if file == name]
        assert steps == sorted(steps)
        assert steps[-1] == len(FILES[name])
        assert {total for file, _, total in events if file == name} == {len(FILES[name])}


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


def test_without_links_files_are_copied(hub: Hub, load, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    folder = load()
    assert not (folder / UNET).is_symlink()
    assert (folder / UNET).read_bytes() == FILES[UNET]


def test_the_hub_library_reads_the_same_cache(hub: Hub, load, tmp_path: Path) -> None:
    folder = load()
    hub.asked.clear()
    cache = tmp_path / "cache"
    path = huggingface_hub.hf_hub_download(MODEL, UNET, cache_dir=cache, local_files_only=True)
    assert Path(path) == folder / UNET
    (repo,) = huggingface_hub.scan_cache_dir(cache).repos
    assert repo.repo_id == MODEL
    assert {"main"} == {ref for revision in repo.revisions for ref in revision.refs}
    assert not huggingface_hub.scan_cache_dir(cache).warnings
    assert hub.asked == []


def test_what_the_hub_library_fetched_is_used(hub: Hub, load, tmp_path: Path) -> None:
    for name in [*SMALL, SHARD_INDEX, *PLAIN]:
        huggingface_hub.hf_hub_download(MODEL, name, cache_dir=tmp_path / "cache", endpoint=hub.endpoint)
    hub.asked.clear()
    load()
    assert [a.path for a in hub.asked] == [f"/api/models/{MODEL}"]


def test_cached_models(hub: Hub, load, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert cached_models(cache) == []
    folder = load()
    hub.publish(
        "others/flux",
        {
            "model_index.json": json.dumps({**INDEX, "_class_name": "Flux"}).encode(),
            **{name: content for name, content in FILES.items() if name != "model_index.json"},
        },
    )
    load("others/flux")
    (found,) = cached_models(cache)
    assert (found.id, found.path) == (MODEL, folder)
    assert found.bytes == sum(len(c) for c in {FILES[n] for n in [*SMALL, SHARD_INDEX, *PLAIN]})


def test_a_link_to_nothing_hides_no_cached_model(hub: Hub, load, tmp_path: Path) -> None:
    folder = load()
    (folder / UNET).resolve().unlink()
    (found,) = cached_models(tmp_path / "cache")
    assert (found.id, found.path) == (MODEL, folder)
    assert found.bytes == sum(len(FILES[name]) for name in [*SMALL, SHARD_INDEX, *PLAIN] if name != UNET)


def test_cached_models_without_links(hub: Hub, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    folder = load()
    assert [(one.path, one.bytes) for one in cached_models(tmp_path / "cache")] == [
        (folder, sum(len(FILES[name]) for name in [*SMALL, SHARD_INDEX, *PLAIN]))
    ]


def test_listing_names_requests_no_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(monkeypatch, tmp_path / "cache") as hub:
        hub.publish(MODEL, FILES)
        assert sorted(list_files(MODEL)) == sorted(FILES)
        assert [asked.query for asked in hub.asked] == [""]


def test_a_variant_is_the_default_where_it_is_the_only_one() -> None:
    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
    index = {"unet": ["diffusers", "UNet"]}
    assert plan_files(names, index, None, None, "a/b")[1] == [names[2]]


PROGRAM = """
import os, sys
assert "huggingface_hub" not in sys.modules and "torch" not in sys.modules
from kandinsky.checkpoints.hub import resolve
assert "huggingface_hub" not in sys.modules and "torch" not in sys.modules
from kandinsky.core.errors import HubError
try:
    print(resolve(sys.argv[1]))
except HubError as error:
    print("HubError", error)
assert "torch" not in sys.modules
"""


def test_the_environment_is_honoured(hub: Hub, tmp_path: Path) -> None:
    def run(**more: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, **more}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, MODEL],
            env={**kept, **home},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout.strip()

    assert run(HF_HUB_OFFLINE="1").startswith("HubError")
    assert hub.asked == []
    folder = run()
    assert Path(folder).is_relative_to(tmp_path / "home" / "hub")
    assert (Path(folder) / UNET).read_bytes() == FILES[UNET]
    hub.asked.clear()
    assert run(HF_HUB_OFFLINE="1") == folder
    assert hub.asked == []


def test_named_files_of_any_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["kandinsky.ckpt", "tokenizer/vocab.json"]
    cache = tmp_path / "cache"
    folder = resolve_files(MODEL, names, endpoint=hub.endpoint, cache=cache)
    assert hub.fetched() == names
    assert contents(folder) == {name: FILES[name] for name in names}
    assert resolve_files(MODEL, names, endpoint=hub.endpoint, cache=cache) == folder
    assert hub.fetched() == names
    with pytest.raises(HubError, match=r"no_such\.ckpt"):
        resolve_files(MODEL, ["no_such.ckpt"], endpoint=hub.endpoint, cache=cache)
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_files(MODEL, names, endpoint=hub.endpoint, cache=cache) == folder
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        resolve_files(MODEL, [*names, UNET], endpoint=hub.endpoint, cache=cache)
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert resolve_files(MODEL, names, endpoint="http://127.0.0.1:9", cache=cache) == folder
