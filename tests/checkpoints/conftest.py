"""A hub on this machine with a model, and how it is loaded."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from kandinsky.checkpoints.hub import resolve
from tests.checkpoints.hub_model import FILES, MODEL
from tests.checkpoints.hub_server import Hub, running


@pytest.fixture
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
