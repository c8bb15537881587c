"""TorchScript archives: their tensors, and none of their code."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from kandinsky.checkpoints.torchscript import is_torchscript, read_torchscript
from kandinsky.core.errors import CheckpointError


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1).half()
        self.register_buffer("counts", torch.arange(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.counts.sum()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.scale = nn.Parameter(torch.tensor(4.6052))
        self.table = nn.Parameter(torch.randn(5, 4).t())
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale + self.table.sum()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.jit.script(Outer()).save(path)
    return path


def test_tensors_of_an_archive(archive: Path) -> None:
    wanted = torch.jit.load(archive).state_dict()
    found = read_torchscript(archive)
    assert is_torchscript(archive)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_plain_pickles_are_no_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("no")
    assert not is_torchscript(tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "text.pt")


def _with_description(archive: Path, description: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    changed = archive.with_name("changed.pt")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w", compression) as new:
        for info in old.infolist():
            data = description if info.filename.endswith("/data.pkl") and description else old.read(info)
            new.writestr(info.filename, data)
    return changed


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, ("evil",))


def test_nothing_is_executed(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"which is not data\. Do not trust this file"):
        read_torchscript(_with_description(archive, pickle.dumps(Evil())))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (pickle.dumps([1, 2]), "holds no module"),
        (b"\x80\x02}q", "cannot be read as a TorchScript archive"),
        (b"\x80\x02U\x03abcQ.", "cannot be read as a TorchScript archive"),
    ],
)
def test_damaged_descriptions(archive: Path, description: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_torchscript(_with_description(archive, description))


def test_compressed_records(archive: Path) -> None:
    with pytest.raises(CheckpointError, match="is compressed"):
        read_torchscript(_with_description(archive, b"", zipfile.ZIP_DEFLATED))


def test_a_tensor_that_reaches_beyond_its_bytes(archive: Path) -> None:
    """The description's sizes are not believed: every element must lie in the file."""
    with zipfile.ZipFile(archive) as file:
        name = next(name for name in file.namelist() if name.endswith("/data/0"))
    changed = archive.with_name("short.pt")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data[:2] if info.filename == name else data)
    with pytest.raises(CheckpointError, match="It is damaged"):
        read_torchscript(changed)
