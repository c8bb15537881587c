"""The checkpoint that the pages are run on: the embedded one, or a tiny one where the package has none."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kandinsky
from kandinsky.core.requests import Request
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.engine import pipeline
from kandinsky.engine.embedded import embedded_folder
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return embedded_folder()
    except kandinsky.CheckpointError:
        from tests.tiny import write_tiny

        return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def here(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder in which `kandinsky.load()` finds the checkpoint; registries are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "embedded_folder", lambda: checkpoint)
    monkeypatch.setenv("COLUMNS", "110")
    before = dict(SAMPLERS)
    threads = torch.get_num_threads()
    yield tmp_path
    SAMPLERS.clear()
    SAMPLERS.update(before)
    torch.set_num_threads(threads)


class Published:
    """Stands for a model of gigabytes: takes every request that the real one takes, and draws a small one."""

    def __init__(self, small: kandinsky.Pipeline, **cheap: Any) -> None:
        self.small = small
        self.cheap = {"steps": 2, **(cheap or {"prior_steps": 2, "width": None, "height": None})}

    def generate(self, prompt: Any, **fields: Any) -> kandinsky.Result:
        Request(prompt, **fields)
        return self.small.generate(prompt, **(fields | self.cheap))

    def warm_up(self, **fields: Any) -> None:
        Request("an image", **fields)
        self.small.warm_up(**(fields | self.cheap))


@pytest.fixture(scope="module")
def stand_ins(tiny: Checkpoints, one_text: OneTextCheckpoints) -> dict[str, Published]:
    """Models of hub ids, by kind."""
    found = {kind: Published(tiny.ours(kind)) for kind in ("text2img", "inpaint", "control")}
    return found | {"newest": Published(one_text.ours(), width=64, height=64)}


@pytest.fixture
def published(
    here: Path, stand_ins: dict[str, Published], third_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lets `kandinsky.load` answer for any hub id with a tiny model of that kind.

    Its arguments are checked against the real one's.
    """
    real: Callable[..., kandinsky.Pipeline] = pipeline.load

    def load(*args: Any, **kwargs: Any) -> Published:
        told = inspect.signature(real).bind(*args, **kwargs).arguments
        name = str(told["model"])
        if name == "ai-forever/Kandinsky3.1":
            options = {key: told.get(key) for key in ("variant", "behaviour")}
            return Published(real(third_release, device="cpu", **options), width=64, height=64)
        if name == "kandinsky-community/kandinsky-3":
            return stand_ins["newest"]
        return stand_ins["control" if "controlnet" in name else "inpaint" if "inpaint" in name else "text2img"]

    monkeypatch.setattr(kandinsky, "load", load)
