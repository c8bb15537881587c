"""Downloads against a hub on this machine: which files are asked for, and what the cache holds."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from kandinsky.checkpoints.hub import cached_models, list_files, plan_files, resolve_files
from kandinsky.core.errors import HubError
from tests.checkpoints.hub_model import FILES, HALF, INDEX, MODEL, PLAIN, SHARD_INDEX, SMALL, UNET, blob, contents
from tests.checkpoints.hub_server import Hub, connected

pytestmark = pytest.mark.usefixtures("no_waiting")


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


def test_progress_is_reported(hub: Hub, load) -> None:
    events: list[tuple[str, int, int]] = []
    load(on_progress=lambda *event: events.append(event))
    assert {name for name, _, _ in events} == {*SMALL, SHARD_INDEX, *PLAIN}
    for name in PLAIN:
        steps = [done for file, done, _ in events if file == name]
        assert steps == sorted(steps)
        assert steps[-1] == len(FILES[name])
        assert {total for file, _, total in events if file == name} == {len(FILES[name])}


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
