"""Three folder layouts, and what is said when one is wrong."""

import json
from pathlib import Path

import pytest

from kandinsky.core.errors import DataError
from kandinsky.recipes.emoji.recipe import grammar_of, read_emoji
from kandinsky.training.data.caption import WrittenCaptions
from kandinsky.training.data.folder import Folder, read_folder
from tests.training_data.folders import CONCEPTS, emoji_folder, half_image


def written(folder: Folder) -> list[tuple[str, str]]:
    assert isinstance(folder.captioner, WrittenCaptions)
    return [(caption.text, caption.language) for caption in folder.captioner.written]


def test_reads_concepts_and_records(tmp_path: Path) -> None:
    folder = read_emoji(emoji_folder(tmp_path / "set"), ("all",), keep_wasteful=True)
    concepts = grammar_of(folder).concepts
    assert [concept.key for concept in concepts] == sorted(CONCEPTS)
    assert folder.styles == ("fluent-flat", "noto")
    held = [record for record in folder.records if record.split == "test"]
    assert [(concepts[r.concept].name, r.style) for r in held] == [("red apple", "noto")]
    apple = next(c for c in concepts if c.name == "red apple")
    assert apple.words["de"].label == "roter Apfel"
    assert apple.words["en"].tags == ("apple", "food", "red")


def test_reads_captions_from_metadata(tmp_path: Path) -> None:
    half_image().save(tmp_path / "a.png")
    half_image().save(tmp_path / "b.png")
    rows = [
        {"file_name": "a.png", "caption": "a red thing"},
        {"file_name": "b.png", "caption": "красное", "language": "ru", "split": "test"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    folder = read_folder(tmp_path)
    assert written(folder) == [("a red thing", "en"), ("красное", "ru")]
    assert [record.split for record in folder.records] == ["train", "test"]


def test_reads_text_files_beside_images(tmp_path: Path) -> None:
    for name, caption in (("x", "one\n line "), ("y", "two"), ("z", "two")):
        half_image().save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption, encoding="utf-8")
    folder = read_folder(tmp_path)
    assert [written(folder)[record.concept][0] for record in folder.records] == ["one line", "two", "two"]


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        read_folder(tmp_path)
    half_image().save(tmp_path / "lonely.png")
    with pytest.raises(DataError, match=r"lonely\.txt"):
        read_folder(tmp_path)
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text('{"file_name": "lonely.png"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1.*no caption"):
        read_folder(tmp_path)
    metadata.write_text('{"file_name": "gone.png", "caption": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"gone\.png"):
        read_folder(tmp_path)
    metadata.write_text("not json\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_folder(tmp_path)


def test_errors_in_concepts(tmp_path: Path) -> None:
    root = emoji_folder(tmp_path / "set")
    table = json.loads((root / "concepts.json").read_text())
    del table["1F34E"]
    (root / "concepts.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="no entry '1F34E'"):
        read_emoji(root)
    (root / "concepts.json").write_text(json.dumps({"1F34E": {"concept": "apple"}}))
    with pytest.raises(DataError, match="1F34E"):
        read_emoji(root)
