"""The code of docs/mindspore.md runs, on small images of a tiny checkpoint."""

from pathlib import Path

import pytest
import torch

from tests.backends.checkpoints import write_checkpoint
from tests.docs.pages import REPOSITORY, blocks


@pytest.mark.mindspore
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [block.text for block in blocks(REPOSITORY / "docs" / "mindspore.md") if block.language == "mindspore"]
    assert len(found) == 2
    for number, text in enumerate(found):
        root = tmp_path / str(number)
        root.mkdir()
        monkeypatch.chdir(root)
        model = root / "kandinsky-community" / "kandinsky-3"
        half = {"dtype": torch.float16, "variant": "fp16"} if "fp16" in text else {}
        write_checkpoint(model, **half)
        small = text.replace("=1024", "=16").replace("=25", "=4")
        assert small != text
        exec(compile(small, "mindspore.md", "exec"), {"__name__": "page"})
