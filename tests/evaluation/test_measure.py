"""Sets of images become numbers: which images, in which order, looked at how."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from torch import Tensor

import kandinsky
from kandinsky.core.errors import DataError, RequestError
from kandinsky.evaluation.clip_models import clip_of, load_clip
from kandinsky.evaluation.clip_score import Clip
from kandinsky.evaluation.features import INCEPTION_SIZE
from kandinsky.evaluation.image_files import Reader, find_images, with_captions
from kandinsky.evaluation.kid import kernel_distance
from kandinsky.evaluation.measure import How, Network, look_at, numbers, parse_metrics, square
from kandinsky.evaluation.moments import Moments, frechet_distance
from kandinsky.evaluation.resizing import Resize


def averages(images: Tensor) -> Tensor:
    """Features (B, 48): the means of a grid of 4 x 4 fields, in place of a network."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)


NETWORK = Network(averages, "averages")


def fill(folder: Path, count: int, seed: int, shift: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for i in range(count):
        pixels = draw.integers(0, 200, (size[1], size[0], 3)) + shift
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    fill(tmp_path / "b", 2, 0)
    fill(tmp_path / "a", 1, 1)
    fill(tmp_path / ".hidden", 1, 2)
    Image.new("RGB", (4, 4)).save(tmp_path / ".c.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "d.JPG", format="JPEG")
    (tmp_path / "text.txt").write_text("none")
    assert [str(one.path.relative_to(tmp_path)) for one in find_images(tmp_path)] == [
        "a/000.png",
        "b/000.png",
        "b/001.png",
        "d.JPG",
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_parts_do_not_matter(tmp_path: Path, batch_size: int) -> None:
    images = find_images(fill(tmp_path / "x", 7, 0))
    whole = look_at(images, NETWORK, How(batch_size=7), keep=True)
    found = look_at(images, NETWORK, How(batch_size=batch_size), keep=True)
    assert whole.features is not None
    assert found.features is not None
    assert torch.equal(found.features, whole.features)
    assert torch.allclose(found.moments.covariance, whole.moments.covariance)
    assert found.sizes == {"20x16": 7}


def test_numbers_are_those_of_the_features(tmp_path: Path) -> None:
    drawn = look_at(find_images(fill(tmp_path / "x", 60, 0, shift=20)), NETWORK, How(), keep=True)
    real = look_at(find_images(fill(tmp_path / "y", 70, 1)), NETWORK, How(), keep=True)
    assert drawn.features is not None
    assert real.features is not None
    found = numbers(["fid", "kid", "precision", "recall"], drawn, real)
    assert found["fid"] == pytest.approx(frechet_distance(Moments.of(drawn.features), Moments.of(real.features)))
    assert found["kid"]["value"] == kernel_distance(drawn.features, real.features).value  # type: ignore[index,call-overload]
    assert "biased upwards" in str(found["fid_note"])
    same = numbers(["fid", "precision", "recall"], real, real)
    assert same["fid"] == pytest.approx(0, abs=1e-3)
    assert (same["precision"], same["recall"]) == (1, 1)


def test_what_a_metric_lacks_is_said(tmp_path: Path) -> None:
    images = find_images(fill(tmp_path / "x", 5, 0))
    seen = look_at(images, NETWORK, How())
    with pytest.raises(DataError, match="fid compares with real images"):
        numbers(["fid"], seen, None)
    with pytest.raises(DataError, match="kid needs the real images themselves"):
        numbers(["kid"], seen, seen)
    with pytest.raises(DataError, match="has no classes"):
        numbers(["inception"], seen, None)
    with pytest.raises(DataError, match="One image has no covariance"):
        numbers(["fid"], look_at(images[:1], NETWORK, How()), seen)
    with pytest.raises(RequestError, match="Did you mean 'recall'"):
        parse_metrics("fid,recal")
    with pytest.raises(RequestError, match="No metric"):
        parse_metrics(" ,")
    assert parse_metrics("recall, fid") == ["fid", "recall"]


def test_a_square_is_cut_from_the_middle() -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (10, 0, 30, 20))
    cut = square(image, 10)
    assert cut.size == (10, 10)
    assert np.asarray(cut)[:, 2:8].min() == 255


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "x", 2, 0)
    (tmp_path / "x" / "001.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"001\.png cannot be measured"):
        look_at(find_images(tmp_path / "x"), NETWORK, How())
    with pytest.raises(DataError, match="no folder"):
        find_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        find_images(tmp_path / "empty")


def batch(folder: Path, *rows: dict[str, object]) -> Path:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_a_batch_left_is_read_by_its_manifest(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", 3, 0)
    rows = [
        {"id": "b", "state": "done", "prompt": "two", "files": [{"file": "001.png"}]},
        {"id": "a", "state": "done", "prompt": "one\u2028x", "files": [{"file": "000.png"}]},
    ]
    found = find_images(batch(folder, *rows))
    assert [(one.path.name, one.caption) for one in found] == [("001.png", "two"), ("000.png", "one\u2028x")]
    with tarfile.open(folder / "shard-00000.tar", "w") as archive:
        archive.add(folder / "001.png", "001.png")
    (packed,) = find_images(batch(folder, rows[0] | {"shard": "shard-00000.tar"}))
    assert packed.name.endswith("shard-00000.tar/001.png")
    assert Reader().open(packed).tobytes() == Image.open(folder / "001.png").tobytes()
    with pytest.raises(DataError, match=r"The row .b. of .* is failed"):
        find_images(batch(folder, rows[0] | {"state": "failed"}))
    (folder / "manifest.jsonl").write_text('{"id": 1\n')
    with pytest.raises(DataError, match="line 1 is damaged"):
        find_images(folder)


def test_captions_come_from_text_files_or_the_image_itself(tmp_path: Path) -> None:
    pipe = kandinsky.load(device="cpu")
    folder = fill(tmp_path / "x", 1, 0)
    (folder / "000.txt").write_text("\ufeffa field \n", encoding="utf-8")
    pipe.generate("a red fox", seed=1, steps=1, prior_steps=1).save(folder / "fox.png")
    assert [one.caption for one in with_captions(find_images(folder))] == ["a field", "a red fox"]
    fill(folder / "bare", 1, 1)
    with pytest.raises(DataError, match=r"bare/000\.png has no caption"):
        with_captions(find_images(folder))


def test_the_clip_of_a_checkpoint_knows_a_fox_from_a_house(tmp_path: Path) -> None:
    pipe = kandinsky.load(device="cpu")
    clip = clip_of(pipe, "emoji")
    assert clip.name.startswith("emoji (")
    assert clip.name == load_clip("emoji", "cpu").name
    for place, prompt in enumerate(("a fox", "a house")):
        pipe.generate(prompt, seed=1, steps=6, prior_steps=6).save(tmp_path / f"{place}.png")
    right = look_at(with_captions(find_images(tmp_path)), NETWORK, How(), clip=clip)
    for place, prompt in enumerate(("a house", "a fox")):
        (tmp_path / f"{place}.txt").write_text(prompt)
    wrong = look_at(find_images(tmp_path), NETWORK, How(), clip=clip)
    found = [numbers(["clip"], seen, None)["clip"]["score"] for seen in (right, wrong)]  # type: ignore[index,call-overload]
    assert found[0] > found[1] + 3


def test_clips_that_are_not_there() -> None:
    with pytest.raises(RequestError, match="open_clip is not installed"):
        load_clip("open_clip:ViT-L-14/openai")


def test_a_pair_is_an_image_and_its_own_caption(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", 5, 0)
    for place in range(5):
        (folder / f"{place:03d}.txt").write_text(str(place))
    eye = torch.eye(5)
    order = iter(eye)
    clip = Clip(
        lambda images: torch.stack([next(order) for _ in images]), lambda texts: eye[[int(t) for t in texts]], "x"
    )
    seen = look_at(find_images(folder), NETWORK, How(batch_size=2), clip=clip)
    assert seen.cosines is not None
    assert torch.equal(seen.cosines, torch.ones(5, dtype=torch.float64))


def plain_tensorflow(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", size: int) -> Any:
    """TensorFlow 1's bilinear resize by its definition: what each target pixel takes of each source pixel."""

    def matrix(side: int) -> Any:
        found = np.zeros((size, side))
        for i in range(size):
            first = int(i * side / size)
            share = i * side / size - first
            found[i, first] += 1 - share
            found[i, min(first + 1, side - 1)] += share
        return found

    return np.einsum("ih,hwc,jw->ijc", matrix(pixels.shape[0]), pixels, matrix(pixels.shape[1]), optimize=True)


def plain_clean(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", size: int) -> Any:
    """Pillow's bicubic filter with antialiasing by its definition: a cubic of a = -0.5 that grows with the scale."""

    def cubic(x: float) -> float:
        x, a = abs(x), -0.5
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0

    def matrix(side: int) -> Any:
        scale = max(1.0, side / size)
        found = np.zeros((size, side))
        for i in range(size):
            centre = (i + 0.5) * side / size
            for j in range(side):
                found[i, j] = cubic((j + 0.5 - centre) / scale)
        return found / found.sum(axis=1, keepdims=True)

    rows, columns = matrix(pixels.shape[0]), matrix(pixels.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, pixels, columns, optimize=True).clip(0, 255)


@pytest.mark.parametrize(("how", "plain"), [("clean", plain_clean), ("tensorflow", plain_tensorflow)])
def test_fid_of_files_is_that_of_an_independent_way_from_file_to_number(
    how: Resize, plain: Callable[..., Any], tmp_path: Path
) -> None:
    folders = fill(tmp_path / "drawn", 12, 0, shift=25, size=(40, 30)), fill(tmp_path / "real", 15, 1, size=(52, 64))
    moments = [look_at(find_images(one), Network(averages, "averages"), How(how)).moments for one in folders]
    gathered = []
    for folder in folders:
        images = [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in sorted(folder.glob("*.png"))]
        resized = torch.from_numpy(np.stack([plain(one, INCEPTION_SIZE) for one in images])).permute(0, 3, 1, 2)
        gathered.append(averages(resized.float()).double().numpy())
    first, second = gathered
    root = linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False)).real
    gap = first.mean(0) - second.mean(0)
    spread = np.trace(np.cov(first, rowvar=False) + np.cov(second, rowvar=False) - 2 * root)
    assert frechet_distance(*moments) == pytest.approx(float(gap @ gap + spread), rel=1e-4)
