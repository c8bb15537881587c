"""What tests of several folders share: the tiny checkpoints, made once a run."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from kandinsky.core.system import VARIABLE
from tests.oracles import ORACLES, Oracles
from tests.reference.folders import write_first, write_second, write_third, write_third_first
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

# Started in the background by a shell, Python inherits an ignored Ctrl-C and passes it on to every child;
# the tests of interruption need it as on a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from a run that does not ask for tests marked `cuda`, its child processes included.

    Code that takes the best device there is then computes as on every other machine. A run without the tests
    marked `parity` cannot import an oracle: what is not marked does without, or fails.
    """
    marks = str(config.option.markexpr)
    if "parity" in marks:
        # An expression of one's own replaces pyproject's, which leaves these out.
        left_out = [name for name in ("slow", "cuda") if name not in marks]
        config.option.markexpr = " and not ".join([f"({marks})", *left_out])
    if marks and not re.search(r"(?<!not )\bcuda\b", marks):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if without_parity(config):
        sys.modules.update(dict.fromkeys(ORACLES))  # type: ignore[arg-type]


def without_parity(config: pytest.Config) -> bool:
    return re.search(r"\bnot parity\b", str(config.option.markexpr)) is not None


@cache
def oracles() -> Oracles:
    return Oracles()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out modules that import an oracle where that is not installed or not wanted."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    if without_parity(config) or any(find_spec(name) is None for name in ("diffusers", "transformers")):
        return oracles().import_needs(module_name(collection_path)) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that need an oracle `parity`, where a run asks: reading all tests takes seconds."""
    if "parity" not in str(config.option.markexpr):
        return
    for item in items:
        if isinstance(item, pytest.Function):
            test = ".".join(filter(None, (item.cls and item.cls.__name__, item.originalname)))
            if oracles().test_needs(module_name(item.path), test):
                item.add_marker("parity")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(Path(__file__).parents[1]).with_suffix("").parts)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for caches of this run alone: tests leave nothing in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def text_image(tmp_path_factory: pytest.TempPathFactory) -> TextImageCheckpoints:
    return TextImageCheckpoints(tmp_path_factory.mktemp("text-image"))


@pytest.fixture(scope="session")
def one_text(tmp_path_factory: pytest.TempPathFactory) -> OneTextCheckpoints:
    return OneTextCheckpoints(tmp_path_factory.mktemp("one-text"))


@pytest.fixture(scope="session")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of original files, with two text encoders."""
    return write_first(tmp_path_factory.mktemp("original") / "first")


@pytest.fixture(scope="session")
def second_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of original files, with a prior."""
    return write_second(tmp_path_factory.mktemp("original") / "second")


@pytest.fixture(scope="session")
def third_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of original files of the newest generation: three U-Nets with projections of their own."""
    return write_third(tmp_path_factory.mktemp("original") / "third")


@pytest.fixture(scope="session")
def third_first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of its first release, whose U-Net's file holds the projection."""
    return write_third_first(tmp_path_factory.mktemp("original") / "third-first")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mindspore") and find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed; it has an environment of its own, see docs/mindspore.md")
