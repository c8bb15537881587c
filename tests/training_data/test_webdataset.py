"""Tables of captions, shards, Hugging Face datasets, and where decoded images are kept."""

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from kandinsky.core.errors import ConfigError, DataError
from kandinsky.core.system import cache_folder
from kandinsky.training.config.run import DataConfig
from kandinsky.training.config.table import validated
from kandinsky.training.data.caption import Templates
from kandinsky.training.data.decoded_cache import size_of
from kandinsky.training.data.folder import Columns, read_folder
from kandinsky.training.data.images import open_images
from kandinsky.training.data.webdataset import unpack_dataset, unpack_shards
from kandinsky.training.dataset import Dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KANDINSKY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def draw_image(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(root: Path, columns: str, rows: list[str]) -> Path:
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(draw_image())
    (root / "images" / "b.png").write_bytes(draw_image("blue"))
    (root / "metadata.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("column", ["image_name", "paths", "file_name"])
def test_a_table_of_captions(column: str, tmp_path: Path) -> None:
    table(tmp_path, f",{column},caption", ['0,images/a.png,"one, two"', "1,images/b.png,ein Öl"])
    for given in (tmp_path, tmp_path / "metadata.csv"):
        folder = read_folder(given)
        assert [record.file_name for record in folder.records] == ["images/a.png", "images/b.png"]
        assert list(folder.captioner.corpus()) == ["one, two", "ein Öl"]


def test_absolute_paths_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    table(tmp_path, "image_name,caption", [])
    listed = tmp_path / "elsewhere" / "list.csv"
    listed.write_text(f"image_name,caption\n{tmp_path / 'images' / 'a.png'},one\n")
    assert len(open_images(listed, 8)) == 1


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ("drawing,caption", ["images/a.png,one"], "none of the columns file_name"),
        ("image_name,words", ["images/a.png,one"], "none of the columns caption"),
        ("image_name,caption", ["images/c.png,one"], "line 2 names 'images/c.png'"),
        ("image_name,caption", ["images/a.png,one", "images/b.png,"], "line 3 .* has no caption"),
        ("image_name,caption", [], "holds no images"),
    ],
)
def test_mistakes_in_a_table(columns: str, rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(table(tmp_path, columns, rows))


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_shards_are_unpacked_once(tmp_path: Path, own_cache: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shard(
        data / "0.tar", {"x/a.png": draw_image(), "x/a.txt": b"one", "x/b.png": draw_image("blue"), "x/b.txt": b"two"}
    )
    given = json.dumps({"caption": "three"}).encode()
    shard(data / "1.tar", {"../../c.png": draw_image("green"), "../../c.json": given})
    folder = unpack_shards(data)
    assert folder is not None
    assert own_cache in folder.parents
    assert list(read_folder(folder).captioner.corpus()) == ["one", "two", "three"]
    stamp = (folder / "metadata.jsonl").stat().st_mtime_ns
    assert unpack_shards(data) == folder
    assert (folder / "metadata.jsonl").stat().st_mtime_ns == stamp
    # An archive says where its files lie; nothing is written there.
    assert not list(tmp_path.glob("c.*"))
    assert sorted(path.name for path in data.iterdir()) == ["0.tar", "1.tar"]
    assert unpack_shards(data / "0.tar") != folder
    assert unpack_shards(tmp_path / "cache") is None


@pytest.mark.parametrize(
    ("files", "message"), [({"a.png": b"x"}, "'a' has no caption"), ({"a.txt": b"one"}, "'a' has no image")]
)
def test_mistakes_in_shards(files: dict[str, bytes], message: str, tmp_path: Path, own_cache: Path) -> None:
    shard(tmp_path / "0.tar", files)
    with pytest.raises(DataError, match=message):
        unpack_shards(tmp_path)
    (tmp_path / "0.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged"):
        unpack_shards(tmp_path)
    assert not list(own_cache.rglob("*.png"))


def captions_of(folder: Path | None) -> list[str]:
    assert folder is not None
    return list(read_folder(folder).captioner.corpus())


@pytest.mark.parametrize(
    "files",
    [
        {"0.png": draw_image(), "1.png": draw_image("blue"), "1.txt": b"two", "0.txt": b"one"},
        {"0.jpeg": draw_image(), "0.jpeg.txt": b"one", "1.jpeg": draw_image("blue"), "1.jpeg.txt": b"two"},
        {"x/a.v2.png": draw_image(), "x/a.v2.txt": b"one", "x/a.v3.png": draw_image(), "x/a.v3.txt": b"two"},
        {"0.png": draw_image(), "0.caption": b"one", "1.PNG": draw_image("blue"), "1.TXT": b"two"},
        {
            "0.png": draw_image(),
            "0.seg.png": draw_image("blue"),
            "0.txt": b"one",
            "1.png": draw_image(),
            "1.txt": b"two",
        },
        {
            "._0.png": b"x",
            "__MACOSX/0.png": b"x",
            "0.png": draw_image(),
            "0.txt": b"one",
            "1.png": draw_image(),
            "1.json": b'{"text": "two"}',
        },
        {"0.tif": draw_image(), "0.txt": "one".encode("utf-16"), "1.png": draw_image(), "1.txt": b"\xef\xbb\xbftwo"},
    ],
)
def test_keys_and_orders_of_shards(files: dict[str, bytes], tmp_path: Path) -> None:
    assert captions_of(unpack_shards(shard(tmp_path / "0.tar", files))) == ["one", "two"]


def test_shards_in_gzip(tmp_path: Path) -> None:
    plain = shard(tmp_path / "0.tar", {"0.png": draw_image(), "0.txt": b"one"})
    for name in ("1.tar.gz", "1.tgz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        assert captions_of(unpack_shards(tmp_path / name)) == ["one"]


def test_texts_of_shards_are_never_guessed(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"0.png": draw_image(), "0.txt": b"caf\xe9 noir"})
    with pytest.raises(DataError, match=r"'0\.txt' in the shard .*0\.tar is no UTF-8 text \(byte 3 is 0xe9\)"):
        unpack_shards(tmp_path)


def test_a_row_that_was_unpacked_is_named_by_its_shard(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"0.png": draw_image(), "0.txt": b"one", "1.png": draw_image()})
    data = Dataset(validated(DataConfig, {"folder": tmp_path, "size": 16}, "data"), 0, torch.device("cpu"))
    assert len(data.records(optional=True).records) == 2
    with pytest.raises(DataError, match=r"^'1' in the shard .*0\.tar .* has no caption"):
        data.records()
    with pytest.raises(ConfigError, match="shards have no columns"):
        Dataset(data.config.model_copy(update={"caption_column": "text"}), 0, torch.device("cpu")).records()


class Table(list[Any]):
    column_names = ("image", "text")
    _fingerprint = "f"


def stand_in(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """The package `datasets`, of which little is used."""
    module = ModuleType("datasets")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table(
        [{"image": Image.new("RGB", (8, 8), "red"), "text": "one"}, {"image": Image.new("L", (8, 8)), "text": ["two"]}]
    )
    requested = []

    def load(name: str, split: str) -> Table:
        requested.append((name, split))
        return rows

    stand_in(monkeypatch, load_dataset=load)
    folder = unpack_dataset("somebody/images", "train[:2]")
    assert requested == [("somebody/images", "train[:2]")]
    assert list(read_folder(folder).captioner.corpus()) == ["one", "two"]
    with pytest.raises(ConfigError, match="no column 'words'"):
        unpack_dataset("somebody/images", "train", Columns(caption="words"))
    with pytest.raises(DataError, match="holds a str, no images"):
        unpack_dataset("somebody/images", "train", Columns(image="text"))


def test_datasets_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, split: str) -> Table:
        raise FileNotFoundError(name)

    stand_in(monkeypatch, load_dataset=load)
    with pytest.raises(DataError, match="cannot be loaded"):
        unpack_dataset("nobody/nothing", "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'kandinsky-diffusion\[train\]'"):
        unpack_dataset("nobody/nothing", "train")


IMAGES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]


def saved(root: Path, said: list[Any]) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": IMAGES, "text": said}, features=features).save_to_disk(str(root / "saved"))
    return str(root / "saved")


def test_datasets_that_were_saved(tmp_path: Path) -> None:
    """Of the package itself, which the extra `train` brings."""
    folder = unpack_dataset(saved(tmp_path, ["one", "two"]), "train")
    assert captions_of(folder) == ["one", "two"]


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_a_row_without_a_caption_is_named(nothing: Any, tmp_path: Path, own_cache: Path) -> None:
    name = saved(tmp_path, ["one", nothing])
    with pytest.raises(DataError, match=r"Row 2 of the dataset .* has no caption"):
        unpack_dataset(name, "train")
    assert not list(own_cache.rglob("*.png"))
    data = Dataset(validated(DataConfig, {"dataset": name, "size": 16}, "data"), 0, torch.device("cpu"))
    with pytest.raises(DataError, match=r"^Row 2 of the dataset .* has no caption"):
        data.records()
    assert len(data.records(Templates(("a zwx",))).records) == 2


@pytest.mark.parametrize("given", ["dataset", "folder"])
def test_folders_of_parquet(given: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for split, said in (("train", ["one", "two"]), ("test", ["three", "four"])):
        rows = datasets.Dataset.from_dict({"image": IMAGES, "text": said}, features=features)
        rows.to_parquet(str(tmp_path / "clone" / "data" / f"{split}-00000-of-00001.parquet"))
    data = Dataset(validated(DataConfig, {given: str(tmp_path / "clone"), "size": 16}, "data"), 0, torch.device("cpu"))
    assert list(data.records().captioner.corpus()) == ["one", "two"]
    lost = data.config.model_copy(update={"split": "trian"})
    with pytest.raises(DataError, match=r"cannot be loaded: .*trian"):
        Dataset(lost, 0, torch.device("cpu")).records()


def test_image_folders_as_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (16, 8), "red").save(tmp_path / split / "0.jpg", exif=exif.tobytes())
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": split}))
    folder = unpack_dataset(str(tmp_path), "train")
    assert captions_of(folder) == ["train"]
    # The file itself was kept: it is read as every other.
    assert size_of(folder / "00000000.jpg") == (8, 16)


def test_a_source_is_needed() -> None:
    for values in ({}, {"folder": "a", "dataset": "b/c"}):
        with pytest.raises(ConfigError, match="one of them is needed"):
            validated(DataConfig, values, "data")


def test_nothing_is_written_into_the_folder(tmp_path: Path, own_cache: Path) -> None:
    data = table(tmp_path, "image_name,caption", ["images/a.png,one"])
    before = sorted(path.relative_to(data) for path in data.rglob("*"))
    open_images(data, 8)
    after = sorted(p.relative_to(data) for p in data.rglob("*") if own_cache not in (p, *p.parents))
    assert after == before
    assert list(own_cache.rglob("*.npy"))


def test_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KANDINSKY_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/kandinsky")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "kandinsky"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "kandinsky"
