"""Our pipelines on diffusers' folders, each loaded once."""

from functools import cache
from typing import Any, Protocol

import pytest

from kandinsky.compat import diffusers as compat
from tests.compat.comparing import folder
from tests.tiny import Checkpoints


class Loader(Protocol):
    def __call__(self, name: str, place: str) -> Any: ...


@pytest.fixture(scope="session")
def ours(tiny: Checkpoints) -> Loader:
    """Pipelines by class name and folder; not to be changed by tests."""

    @cache
    def load(name: str, place: str) -> Any:
        return getattr(compat, name).from_pretrained(folder(tiny, place))

    return load
