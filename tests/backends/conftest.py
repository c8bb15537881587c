"""What tests of backends share."""

from pathlib import Path

import pytest

from tests.backends.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny 3.x checkpoint in diffusers layout."""
    return write_checkpoint(tmp_path_factory.mktemp("three") / "tiny")
