"""What tests of several folders share: the tiny checkpoints, made once a run."""

import pytest

from tests.tiny import Checkpoints


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("tiny"))
