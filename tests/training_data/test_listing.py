"""What a stranger's folder holds: which files are learned from, by which texts, and what is left out and said."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.core.errors import ConfigError, DataError, KandinskyError
from kandinsky.training.config.run import DataConfig
from kandinsky.training.config.table import validated
from kandinsky.training.data import decoded_cache
from kandinsky.training.data.caption import Templates
from kandinsky.training.data.decoded_cache import decoded
from kandinsky.training.data.folder import Columns, Folder, read_bare_folder, read_folder
from kandinsky.training.data.images import ImageSet, open_images
from kandinsky.training.dataset import Dataset, learns_from

SUBJECT = Templates(("a zwx toy",))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANDINSKY_CACHE", str(tmp_path_factory.mktemp("cache")))


def toy(folder: Path, name: str = "0.png", caption: str | None = "a red toy", colour: str = "red") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def dataset(folder: Path, out: Path | None = None, **data: Any) -> Dataset:
    config = validated(DataConfig, {"folder": folder, "size": 32, **data}, "data")
    return Dataset(config, 0, torch.device("cpu"), out)


def files(folder: Folder) -> list[str]:
    return [record.file_name for record in folder.records]


def captions(folder: Folder) -> dict[str, str]:
    said = list(folder.captioner.corpus())
    return {record.file_name: said[record.concept] for record in folder.records}


def line(data: Dataset) -> str:
    learned, held_out = data.shapes(32)
    return learns_from("lora", learned, held_out, []).line


TURNED = {3: 3, 6: 2, 8: 4}
"""Orientations of cameras, and the transposition of Pillow that makes such a file of an upright image."""


@pytest.mark.parametrize("orientation", list(TURNED))
@pytest.mark.parametrize("buckets", [None, 8])
def test_phone_pictures_are_learned_upright(orientation: int, buckets: int | None, tmp_path: Path) -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    sets: list[ImageSet] = []
    for name in ("upright", "turned"):
        folder = tmp_path / name
        folder.mkdir()
        there = TURNED[orientation] if name == "turned" else None
        image = upright if there is None else upright.transpose(Image.Transpose(there))
        image.save(folder / "0.png", exif=exif.tobytes() if there is not None else b"")
        (folder / "0.txt").write_text("a toy")
        sets += dataset(folder, size=24, buckets=buckets).shapes(24)[0]
    assert sets[0].shape == sets[1].shape
    assert torch.equal(sets[0].plain([0]), sets[1].plain([0]))


def test_sixteen_bits_and_palettes_are_read_as_requests_read_them(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 32), (32, 1))
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(tmp_path / "plain.png")
    for name in ("deep", "plain"):
        (tmp_path / f"{name}.txt").write_text(name)
    images = open_images(tmp_path, 32)
    assert torch.allclose(images.plain([0]), images.plain([1]), atol=0.01)
    palette = Image.new("P", (32, 32))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    (tmp_path / "palette.txt").write_text("palette")
    assert not bool(open_images(tmp_path, 32).opaque[1])


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".avif", ".jfif", ".JPG", ".tga", ".ppm", ".jp2"])
def test_every_format_that_pillow_reads_is_seen(suffix: str, tmp_path: Path) -> None:
    kinds = {".jfif": "JPEG", ".tga": "TGA", ".jp2": "JPEG2000"}
    Image.new("RGB", (32, 32), "red").save(tmp_path / f"a{suffix}", kinds.get(suffix))
    (tmp_path / "a.txt").write_text("a red toy")
    assert files(read_folder(tmp_path)) == [f"a{suffix}"]


def hidden_file(root: Path) -> None:
    (root / "._0.png").write_bytes(b"a fork of a file")
    (root / "._0.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "Thumbs.db").write_bytes(b"x")


def hidden_folders(root: Path) -> None:
    for name in ("__MACOSX", ".ipynb_checkpoints", ".Trash-1000", "@eaDir"):
        toy(root / name, "1.png", "thrown away")


def linked_folder(root: Path) -> None:
    toy(root.parent / "real", "1.png")
    (root / "more").symlink_to(root.parent / "real")
    (root / "loop").symlink_to(root)


def broken_link(root: Path) -> None:
    (root / "1.png").symlink_to(root / "nowhere.png")
    (root / "1.txt").write_text("gone")


def other_formats(root: Path) -> None:
    for name in ("1.heic", "2.heic", "3.pdf"):
        (root / name).write_bytes(b"x")
    (root / "1.txt").write_text("of a phone")


def archive_beside(root: Path) -> None:
    with tarfile.open(root / "backup.tar", "w") as shard:
        shard.add(root / "0.png", "1.png")
        shard.add(root / "0.txt", "1.txt")


def earlier_run(root: Path) -> None:
    toy(root / "runs" / "toy" / "class", "1.png", None)
    (root / "runs" / "toy" / "config.json").write_text(json.dumps({"out": "runs/toy", "data": {}, "stage": []}))


@pytest.mark.parametrize(
    ("clutter", "said"),
    [
        (hidden_file, "1 hidden"),
        (hidden_folders, "4 hidden folder"),
        (linked_folder, "2 linked folder (not entered)"),
        (broken_link, "1 broken link"),
        (other_formats, "2 .heic, 1 .pdf"),
        (archive_beside, "1 archive"),
        (earlier_run, "1 folder of a run"),
    ],
)
def test_what_is_no_image_to_learn_from_is_left_out_and_said(
    clutter: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    root = tmp_path / "toys"
    toy(root)
    clutter(root)
    assert files(read_folder(root)) == files(read_bare_folder(root)) == ["0.png"]
    assert line(dataset(root)) == f"learns from 1 image with 1 caption; left out: {said}"


def test_the_runs_own_folder_is_left_out(tmp_path: Path) -> None:
    toy(tmp_path)
    toy(tmp_path / "runs" / "toy" / "samples", "1.png")
    assert files(read_folder(tmp_path, out=tmp_path / "runs" / "toy")) == ["0.png"]
    stamp = dataset(tmp_path, out=tmp_path / "runs").stamp()
    toy(tmp_path / "runs", "2.png")
    assert dataset(tmp_path, out=tmp_path / "runs").stamp() == stamp


def test_links_to_files_and_a_linked_root_work(tmp_path: Path) -> None:
    toy(tmp_path / "real")
    (tmp_path / "real" / "1.png").symlink_to(tmp_path / "real" / "0.png")
    (tmp_path / "real" / "1.txt").symlink_to(tmp_path / "real" / "0.txt")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert files(read_folder(tmp_path / "root")) == ["0.png", "1.png"]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]
TEXT = "игрушка, «café»"


def as_text(root: Path, caption: str, encoding: str) -> None:
    (root / "0.txt").write_bytes(caption.encode(encoding))


def as_lines(root: Path, caption: str, encoding: str) -> None:
    row = json.dumps({"file_name": "0.png", "caption": caption}, ensure_ascii=False)
    (root / "metadata.jsonl").write_bytes(f"{row}\n".encode(encoding))


def as_table(root: Path, caption: str, encoding: str) -> None:
    (root / "metadata.csv").write_bytes(f'file_name,text\n0.png,"{caption}"\n'.encode(encoding))


FORMS = [as_text, as_lines, as_table]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_captions_in_every_usual_encoding(form: Callable[..., None], encoding: str, tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    form(tmp_path, TEXT, encoding)
    assert captions(read_folder(tmp_path)) == {"0.png": TEXT}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("encoding", "caption"), [("latin-1", "un café"), ("cp1252", "it’s"), ("cp1251", "кот")])
def test_other_encodings_are_an_error_with_file_and_byte(
    form: Callable[..., None], encoding: str, caption: str, tmp_path: Path
) -> None:
    toy(tmp_path, caption=None)
    form(tmp_path, caption, encoding)
    with pytest.raises(DataError, match=r"(0\.txt|metadata\.\w+) is no UTF-8 text \((byte \d+ is 0x|it ends early)"):
        read_folder(tmp_path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("caption", ["", "\ufeff", " \u200b\n"])
def test_a_caption_of_nothing_visible_is_none(form: Callable[..., None], caption: str, tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    form(tmp_path, caption.strip("\n"), "utf-8")
    with pytest.raises(DataError, match=r"is empty|has no caption"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.png,a red toy, on a table", "line 2 has 3 cells, and the header 2"),
        ('0.png,"a red toy\n1.png,a blue toy', "line 3 is no CSV"),
        ("0.png,a red toy\n1.png", r"line 3 \('1.png'\) has no caption"),
    ],
)
def test_a_table_never_drops_a_part_of_a_caption(rows: str, message: str, tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    toy(tmp_path, "1.png", None)
    (tmp_path / "metadata.csv").write_text(f"file_name,caption\n{rows}\n")
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path)


def test_lines_with_separators_inside_a_text(tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    as_lines(tmp_path, "one\u2028two\u0085three", "utf-8")
    assert captions(read_folder(tmp_path)) == {"0.png": "one two three"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("image", ["file_name", "image", "path"])
@pytest.mark.parametrize("caption", ["caption", "text", "prompt"])
def test_columns_as_others_call_them(suffix: str, image: str, caption: str, tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    row = {image: "0.png", caption: "a toy"}
    text = json.dumps(row) if suffix == ".jsonl" else f"{image},{caption}\n0.png,a toy\n"
    (tmp_path / f"metadata{suffix}").write_text(text)
    for given in (tmp_path, tmp_path / f"metadata{suffix}"):
        assert captions(read_folder(given)) == {"0.png": "a toy"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_named_columns_act(suffix: str, tmp_path: Path) -> None:
    toy(tmp_path, caption=None)
    toy(tmp_path, "1.png", None)
    row = {"file_name": "0.png", "other": "1.png", "caption": "0001", "description": "a toy"}
    lines = [",".join(row), ",".join(row.values())] if suffix == ".csv" else [json.dumps(row)]
    (tmp_path / f"metadata{suffix}").write_text("\n".join(lines))
    data = dataset(tmp_path, caption_column="description", image_column="other")
    assert captions(data.records()) == {"1.png": "a toy"}
    with pytest.raises(ConfigError, match=r"data\.caption_column: .* has no 'descripton'. Did you mean 'description'"):
        dataset(tmp_path, caption_column="descripton").records()


@pytest.mark.parametrize("option", [{"caption_column": "text"}, {"image_column": "image"}])
def test_columns_without_a_table_are_refused(option: dict[str, str], tmp_path: Path) -> None:
    toy(tmp_path)
    with pytest.raises(ConfigError, match=r"has no table"):
        dataset(tmp_path, **option).records()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_images_that_the_table_does_not_list_are_said(suffix: str, tmp_path: Path) -> None:
    for number in range(3):
        toy(tmp_path, f"{number}.png", None if number else "beside")
    row = {"file_name": "1.png", "caption": "listed"}
    lines = [",".join(row), ",".join(row.values())] if suffix == ".csv" else [json.dumps(row)]
    (tmp_path / f"metadata{suffix}").write_text("\n".join(lines))
    assert line(dataset(tmp_path)) == f"learns from 1 image with 1 caption; left out: 2 not in metadata{suffix}"


def test_tables_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        toy(tmp_path / split, "0.png", None)
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": split}))
    assert captions(dataset(tmp_path).records()) == {"train/0.png": "train"}
    assert list(dataset(tmp_path).records().captioner.corpus()) == ["train"], "no tokenizer learns from the others"
    assert captions(dataset(tmp_path, split="validation").records()) == {"validation/0.png": "validation"}
    assert line(dataset(tmp_path)).endswith("left out: 1 of split test, 1 of split validation")


@pytest.mark.parametrize("captioner", [None, SUBJECT])
def test_the_test_split_is_never_learned_from(captioner: Templates | None, tmp_path: Path) -> None:
    for number in range(3):
        toy(tmp_path, f"{number}.png")
    rows = [{"file_name": f"{n}.png", "caption": "x", "split": ("Train", "test", "valid")[n]} for n in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert files(dataset(tmp_path).records(captioner)) == ["0.png"]
    with pytest.raises(ConfigError, match="which is never learned from"):
        dataset(tmp_path, split="test")
    with pytest.raises(ConfigError, match=r"data\.split is 'train\[:2\]', which no folder has"):
        dataset(tmp_path, split="train[:2]").records(captioner)
    rows[0]["split"] = "tarin"
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"line 1 is of the split 'tarin'\. Did you mean 'train'"):
        dataset(tmp_path).records(captioner)


def test_a_folder_of_the_test_split_alone(tmp_path: Path) -> None:
    toy(tmp_path / "test")
    with pytest.raises(DataError, match=r"No image of split 'train'.*1 of split test.*never learned from"):
        dataset(tmp_path).records()


def test_file_names_in_no_encoding(tmp_path: Path) -> None:
    toy(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")
    os.rename(tmp_path / "0.png", tmp_path / name)
    os.rename(tmp_path / "0.txt", (tmp_path / name).with_suffix(".txt"))
    data = dataset(tmp_path)
    assert len(data.shapes(32)[0][0]) == 1
    assert data.stamp()


def test_a_bomb_is_one_line_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for buckets in (None, 8):
        with pytest.raises(DataError, match=r"'0\.png' is not a readable image: .* has too many pixels") as raised:
            dataset(tmp_path, buckets=buckets).shapes(32)
        assert "\n" not in str(raised.value)


def test_what_an_older_reader_kept_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(tmp_path)
    monkeypatch.setattr(decoded_cache, "_FORMAT", "premultiplied-1")
    old = decoded(read_folder(tmp_path), 32, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.npy")
    np.save(kept, np.zeros_like(old))
    monkeypatch.undo()
    assert int(decoded(read_folder(tmp_path), 32, tmp_path / "cache").max()) == 255


def test_what_is_decoded_lies_in_a_file_and_not_in_memory(tmp_path: Path) -> None:
    for number in range(5):
        toy(tmp_path, f"{number}.png", colour=("red", "blue")[number % 2])
    fresh, again = (open_images(tmp_path, 32, cache=tmp_path / "cache") for _ in range(2))
    for _ in range(2):
        assert isinstance(decoded(read_folder(tmp_path), 32, tmp_path / "cache"), np.memmap)
    (kept,) = (tmp_path / "cache").glob("*.npy")
    assert kept.stat().st_size > 5 * 4 * 32 * 32
    assert torch.equal(fresh.plain(range(5)), again.plain(range(5)))
    nowhere = tmp_path / "no folder"
    nowhere.write_text("")
    assert torch.equal(open_images(tmp_path, 32, cache=nowhere).plain(range(5)), again.plain(range(5)))


def test_optional_captions(tmp_path: Path) -> None:
    toy(tmp_path)
    toy(tmp_path, "1.png", None)
    assert captions(read_folder(tmp_path, optional=True)) == {"0.png": "a red toy", "1.png": ""}
    with pytest.raises(KandinskyError, match=r"'1\.png' has no caption file"):
        read_folder(tmp_path, Columns())
