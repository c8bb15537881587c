"""`kandinsky models`: where models are, whether they are whole, and their removal."""

import hashlib
from pathlib import Path

import pytest

import kandinsky
from kandinsky.cli import models
from kandinsky.cli.main import run
from kandinsky.engine.embedded import embedded_folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(["models", *map(str, arguments)])
    return ended.value.code or 0  # type: ignore[return-value]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with a model of two files, as the hub's library lays them out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    storage = tmp_path / "models--owner--model"
    commit = "c" * 40
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (storage / folder).mkdir(parents=True)
    (storage / "refs" / "main").write_text(commit)
    index = b'{"_class_name": "KandinskyV22Pipeline"}'
    small = hashlib.sha1(b"blob %d\0" % len(index) + index).hexdigest()
    large = hashlib.sha256(b"weights").hexdigest()
    for name, digest, data in (("model_index.json", small, index), ("weights.bin", large, b"weights")):
        (storage / "blobs" / digest).write_bytes(data)
        (storage / "snapshots" / commit / name).symlink_to(storage / "blobs" / digest)
    return storage


def test_where_models_are(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("where", "emoji") == 0
    assert capsys.readouterr().out.strip() == str(embedded_folder())
    assert call("where", "owner/model") == 0
    assert capsys.readouterr().out.strip() == str(cached / "snapshots" / ("c" * 40))
    assert call("where") == 0
    assert capsys.readouterr().out.strip() == str(cached.parent)
    assert call("where", "owner/modell") == 1
    assert "Did you mean 'owner/model'" in capsys.readouterr().err


def test_whole_models_are_ok(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("verify") == 0
    out = capsys.readouterr().out
    assert "owner/model: ok, 2 files have their sums" in out
    assert "emoji: ok" in out


def test_a_damaged_file_is_named(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blob = cached / "blobs" / hashlib.sha256(b"weights").hexdigest()
    blob.write_bytes(b"weightz")
    assert call("verify", "owner/model") == 1
    assert "weights.bin is damaged" in capsys.readouterr().out
    blob.unlink()
    assert call("verify", "owner/model") == 1
    assert "weights.bin is missing" in capsys.readouterr().out


def test_removing(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("rm", "owner/model") == 1
    assert "Say --yes" in capsys.readouterr().err
    assert cached.exists()
    assert call("rm", "owner/model", "--yes") == 0
    assert not cached.exists()
    assert call("rm", "emoji", "--yes") == 1
    assert "came with this package" in capsys.readouterr().err


def test_pulling_asks_for_what_load_would(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kandinsky.engine import pipeline

    class Source:
        root = Path("somewhere")

    asked: list[object] = []

    def open_sources(*args: object) -> tuple[Source, Source]:
        asked.extend(args[:4])
        return Source(), Source()

    monkeypatch.setattr(pipeline, "open_sources", open_sources)
    assert call("pull", "owner/model", "--variant", "fp16") == 0
    assert asked == ["owner/model", None, "fp16", None]
    assert capsys.readouterr().out == "somewhere\n"
    assert call("pull", models.__file__) == 1


def test_the_list_tells_the_size_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = kandinsky.load(device="cpu").model.defaults
    assert (models.embedded()[0].side,) * 2 == (defaults["width"], defaults["height"])
    assert call() == 0
    assert "64 x 64" in capsys.readouterr().out
