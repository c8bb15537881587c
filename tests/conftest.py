"""What tests of several folders share: the tiny checkpoints, made once a run."""

import pytest

from tests.tiny import Checkpoints
from tests.tiny_text_image import TextImageCheckpoints


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def text_image(tmp_path_factory: pytest.TempPathFactory) -> TextImageCheckpoints:
    return TextImageCheckpoints(tmp_path_factory.mktemp("text-image"))
