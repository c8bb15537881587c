"""Commands of the library on a pipeline without weights."""

from pathlib import Path

import pytest

import kandinsky
from kandinsky.cli.main import run
from tests.cli.fakes import Command, FakePipeline, Loader


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    loader = Loader(FakePipeline())
    monkeypatch.setitem(kandinsky.__dict__, "load", loader)
    monkeypatch.chdir(tmp_path)
    return loader


@pytest.fixture
def generate(loader: Loader) -> Command:
    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            run(["generate", *map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call
