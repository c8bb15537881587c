"""Two processes do not write into one folder of a run."""

from pathlib import Path

import pytest

from kandinsky.core.errors import OutputError
from kandinsky.core.locks import only_writer
from kandinsky.training.api import run_config
from tests.training.small import draw_images, small_config


def test_the_second_is_told(tmp_path: Path) -> None:
    draw_images(tmp_path / "images")
    config = small_config(tmp_path)
    out = Path(config["out"])
    out.mkdir()
    with only_writer(out), pytest.raises(OutputError, match="Another process writes into"):
        list(run_config(config))
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == []
    events = run_config(config)
    next(events)
    with pytest.raises(OutputError, match="Another process writes into"):
        next(run_config(config))
    events.close()
    with only_writer(out):
        pass
