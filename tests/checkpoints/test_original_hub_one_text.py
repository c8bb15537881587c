"""The newest releases of original files by hub ids, with a text encoder of their own or from elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import kandinsky
from kandinsky.core.errors import HubError
from tests.checkpoints.hub_server import Hub, connected, files_of
from tests.reference.folders import THIRD_PROMPT, write_third, write_third_first
from tests.requests import our_latents

FIRST, SECOND, ENCODER = "ai-forever/Kandinsky3.0", "ai-forever/Kandinsky3.1", "google/flan-ul2"
FIELDS: dict[str, Any] = {"prompt": THIRD_PROMPT, "seed": 3, "width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("third")
    return write_third_first(root / "first"), write_third(root / "second")


@pytest.fixture
def hub(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    first = files_of(folders[0])
    encoder = {name: data for name, data in first.items() if name.startswith(ENCODER)}
    with connected(monkeypatch, tmp_path / "hub") as hub:
        hub.publish(FIRST, {name: data for name, data in first.items() if name not in encoder})
        hub.publish(SECOND, files_of(folders[1]))
        published = {name.removeprefix(f"{ENCODER}/"): data for name, data in encoder.items()}
        hub.publish(ENCODER, published | {"flax_model.msgpack": b"never read"})
        yield hub


def _load(model: str | Path, **options: Any) -> kandinsky.Pipeline:
    return kandinsky.load(model, device="cpu", dtype="float32", **options)


@pytest.mark.parametrize("variant", [None, "flash", "inpainting"])
def test_one_unet_is_fetched_with_its_projection(hub: Hub, folders: tuple[Path, Path], variant: str | None) -> None:
    pipe, end = _load(SECOND, variant=variant), f"_{variant}" if variant else ""
    inside = {Path(name).name for name in hub.fetched() if name.endswith(".pt")}
    assert inside == {f"kandinsky3{end}.pt", f"projection{end}.pt", "movq.pt"}
    if variant is None:
        assert torch.equal(our_latents(pipe, **FIELDS), our_latents(_load(folders[1]), **FIELDS))


def test_the_text_encoder_comes_from_where_it_was_published(
    hub: Hub, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = our_latents(_load(FIRST), **FIELDS)
    assert torch.equal(latents, our_latents(_load(folders[0]), **FIELDS))
    assert "pytorch_model.bin" in hub.fetched()
    assert "flax_model.msgpack" not in hub.fetched()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(our_latents(_load(FIRST), **FIELDS), latents)


def test_a_text_encoder_that_is_nowhere_is_named(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: data for name, data in files_of(folders[0]).items() if not name.startswith(ENCODER)}
    with connected(monkeypatch, tmp_path / "hub") as hub:
        hub.publish(FIRST, first)
        hub.publish(ENCODER, {"config.json": b"{}"})
        with pytest.raises(HubError, match="flan-ul2 holds no weights"):
            _load(FIRST)
    for name, data in first.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(kandinsky.CheckpointError, match=r"lacks the folder 'weights/flan_ul2_encoder'.*google"):
        _load(tmp_path)
