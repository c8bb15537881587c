"""Folders that appear whole: what is next to them and in them stays, whatever goes wrong."""

import errno
import os
from pathlib import Path

import pytest

from kandinsky.core.errors import OutputError
from kandinsky.core.files import whole_folder, write_atomically


def write(target: str | Path, text: str = "new", replace: bool = False) -> None:
    with whole_folder(target, replace=replace) as hidden:
        (hidden / "file").write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("replace", [False, True])
def test_other_folders_stay(tmp_path: Path, replace: bool) -> None:
    for name in (".model.old", ".model.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("kept")
    if replace:
        write(tmp_path / "model", "first")
    write(tmp_path / "model", replace=replace)
    assert tree(tmp_path) == {".model.old/mine": "kept", ".model.part/mine": "kept", "model/file": "new"}
    assert {path.name for path in tmp_path.iterdir()} == {".model.old", ".model.part", "model"}
    assert (tmp_path / "model").stat().st_mode & 0o777 == (tmp_path / ".model.old").stat().st_mode & 0o777


def test_what_appears_in_the_target_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    with pytest.raises(OutputError, match="not empty"), whole_folder(target):
        (target / "mine").write_text("kept")
    assert tree(tmp_path) == {"model/mine": "kept"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target, replace=True) as one:
        (one / "file").write_text("one")
        write(target, "two", replace=True)
        assert tree(target) == {"file": "two"}
    assert tree(tmp_path) == {"model/file": "one"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_link_stays_a_link(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk", target_is_directory=True)
    for text in ["first", "second"] if replace else ["first"]:
        write(tmp_path / "model", text, replace)
        assert tree(tmp_path / "disk") == {"file": text}
    assert (tmp_path / "model").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "model"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, PermissionError])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_a_stop_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], done: bool, step: int
) -> None:
    """Whichever rename a stop comes before or after: the old folder or the new one is there, whole."""
    target = tmp_path / "model"
    write(target, "old")
    count, rename = 0, os.rename

    def stopping(source: str, place: str) -> None:
        nonlocal count
        count += 1
        if count != step or done:
            rename(source, place)
        if count == step:
            raise stop

    monkeypatch.setattr(os, "rename", stopping)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write(target, replace=True)
    assert tree(tmp_path) == {"model/file": "new" if (step, done) == (2, True) else "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_folder_one_is_in_and_the_root_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (".", "", "/"):
        with pytest.raises(OutputError, match="exists already"):
            write(target)
    write("new/model")
    assert tree(tmp_path) == {"new/model/file": "new"}


@pytest.mark.parametrize("reason", ["ENOSPC", "EDQUOT", "EACCES", "EROFS"])
def test_only_a_full_disk_is_to_be_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, reason), "refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"[Cc]hoose another") as caught:
        write_atomically(tmp_path / "file", b"")
    assert ("disk space" in str(caught.value)) == (reason in ("ENOSPC", "EDQUOT"))
