"""The request inside the image, in each format, and results on disk."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky.core import files
from kandinsky.core.errors import OutputError, RequestError
from kandinsky.core.events import Result
from kandinsky.core.files import check_writable, write_atomically
from kandinsky.core.metadata import Metadata, check_image_path, read_metadata, summary, write_image
from kandinsky.core.requests import Embedding, Request, mix

DEFAULTS: dict[str, Any] = {"width": 16, "height": 16, "steps": 25, "guidance_scale": 4.0, "sampler": "ddpm"}
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".PNG"]
PROMPT = 'красное "яблоко", <b>红</b> & {🍎}\nsecond line'


def image(shade: int = 40) -> Image.Image:
    return Image.fromarray(np.full((16, 16, 3), shade, np.uint8))


def metadata(prompt: Any = PROMPT, **fields: Any) -> Metadata:
    request = Request(prompt, seed=7, **fields).filled(DEFAULTS)
    return Metadata(request.to_json(), "some/model", {"dtype": "float32"}, "1.2.3", 2)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_survives_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert write_image(image(), path, metadata()) == path
    assert read_metadata(path) == metadata()
    assert Image.open(path).size == (16, 16)
    assert os.listdir(tmp_path) == [path.name]


def test_png_pixels_are_exact_and_bytes_repeat(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    one = write_image(noise, tmp_path / "1.png", metadata())
    two = write_image(noise, tmp_path / "2.png", metadata())
    assert one.read_bytes() == two.read_bytes()
    assert np.array_equal(np.asarray(Image.open(one)), np.asarray(noise))


def test_other_tools_find_the_steps_first() -> None:
    meta = metadata(
        "a fox",
        image=image(),
        strength=0.3,
        guidance_interval=(0.1, 0.8),
        reuse=2,
        prior_steps=20,
        prior_guidance_scale=3.0,
        eta=0.5,
    )
    assert summary(meta).splitlines()[-1] == (
        "Steps: 25, Sampler: ddpm, CFG scale: 4.0, CFG interval: 0.1 to 0.8, Reuse: 2, Seed: 7, Size: 16x16, "
        "Model: some/model, Denoising strength: 0.3, Prior steps: 20, Prior CFG scale: 3.0, Eta: 0.5, "
        "Version: kandinsky 1.2.3"
    )


def test_other_tools_find_their_chunk(tmp_path: Path) -> None:
    meta = metadata("a fox", negative_prompt="blurry")
    write_image(image(), tmp_path / "a.png", meta)
    text = Image.open(tmp_path / "a.png").info["parameters"]
    assert text == summary(meta)
    assert text.splitlines() == [
        "a fox",
        "Negative prompt: blurry",
        "Steps: 25, Sampler: ddpm, CFG scale: 4.0, Seed: 7, Size: 16x16, Model: some/model, Version: kandinsky 1.2.3",
    ]
    write_image(image(), tmp_path / "a.jpg", meta)
    comment = Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\x00" + text.encode("utf-16-be")


def test_summary_of_mixes_and_embeddings(tmp_path: Path) -> None:
    image().save(tmp_path / "cat.png")
    prompt = mix(["a dog", tmp_path / "cat.png", Embedding([1.0])], [0.25, 0.5, 0.25])
    assert summary(metadata(prompt)).startswith("a dog:0.25 | cat.png:0.5 | (embedding):0.25\n")


def test_long_embeddings_fit(tmp_path: Path) -> None:
    vector = np.random.default_rng(0).normal(size=1280).astype(np.float32)
    meta = metadata(Embedding(vector, vector))
    for suffix in (".png", ".jpg", ".webp"):
        write_image(image(), tmp_path / f"e{suffix}", meta)
        assert Request.from_json(read_metadata(tmp_path / f"e{suffix}").request).prompt == Embedding(vector, vector)


def test_too_much_for_jpeg_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be encoded.*\.png"):
        write_image(image(), tmp_path / "a.jpg", metadata("word " * 20_000))
    assert os.listdir(tmp_path) == []
    write_image(image(), tmp_path / "a.png", metadata("word " * 20_000))
    assert read_metadata(tmp_path / "a.png") == metadata("word " * 20_000)


def test_images_without_a_request(tmp_path: Path) -> None:
    write_image(image(), tmp_path / "bare.png")
    image().save(tmp_path / "other.jpg")
    for name in ("bare.png", "other.jpg"):
        with pytest.raises(RequestError, match="does not hold the request"):
            read_metadata(tmp_path / name)
    with pytest.raises(RequestError, match="no image"):
        read_metadata(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(RequestError, match="not an image"):
        read_metadata(tmp_path / "text.png")


@pytest.mark.parametrize("stored", ["{", "[]", "{}", '{"request": 3, "model": "", "version": ""}', "null"])
def test_damaged_chunks(tmp_path: Path, stored: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_itxt("kandinsky", stored)
    image().save(tmp_path / "a.png", pnginfo=chunks)
    with pytest.raises(RequestError, match="damaged"):
        read_metadata(tmp_path / "a.png")


def test_newer_layouts_are_refused(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_itxt("kandinsky", json.dumps({"layout": 2, "request": {}, "model": "m", "version": "9.0"}))
    image().save(tmp_path / "a.png", pnginfo=chunks)
    with pytest.raises(RequestError, match=r"9\.0.*newer"):
        read_metadata(tmp_path / "a.png")


def test_unknown_suffixes(tmp_path: Path) -> None:
    for write in (lambda p: write_image(image(), p), check_image_path):
        with pytest.raises(OutputError, match=r"Known: \.jpeg, \.jpg, \.png, \.webp"):
            write(tmp_path / "a.pgn")
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for bad in ("missing/a.png", "file/a.png", "folder.png"):
        with pytest.raises(OutputError, match=bad.split("/", maxsplit=1)[0]):
            check_writable(tmp_path / bad)
    check_writable(tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_a_folder_that_refuses_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable(tmp_path / "a.png")
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomically(tmp_path / "a.png", b"x")


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def fail(_: int) -> None:
        raise stop

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_atomically(tmp_path / "a.png", b"new")
    monkeypatch.undo()
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours")]
    assert modes[0] == modes[1]


def result(count: int) -> Result:
    request = Request(["a", "b"], seed=5, count=count).filled(DEFAULTS)
    return Result([image(9 * i) for i in range(request.size)], request.seeds, request.to_json(), "m")


def test_results_are_saved_numbered_each_with_its_own_request(tmp_path: Path) -> None:
    saved = result(2).save(tmp_path / "r.png")
    assert [path.name for path in saved] == ["r-0001.png", "r-0002.png", "r-0003.png", "r-0004.png"]
    for index, path in enumerate(saved):
        meta = read_metadata(path)
        assert (meta.model, meta.batch) == ("m", 4)
        (row,) = Request.from_json(meta.request).rows()
        assert (row.prompt, row.seed) == ("aabb"[index], 5 + index)
        assert np.asarray(Image.open(path))[0, 0, 0] == 9 * index


def test_results_by_pattern(tmp_path: Path) -> None:
    saved = result(1).save(tmp_path / "r-{seed}-{index:02d}.webp")
    assert [path.name for path in saved] == ["r-5-01.webp", "r-6-02.webp"]
    with pytest.raises(OutputError, match="not a pattern"):
        result(1).save(tmp_path / "r-{seed}-{colour}.png")
    with pytest.raises(OutputError, match="one name"):
        result(1).save(tmp_path / "r{seed!s:.0}.png")
