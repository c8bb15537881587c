"""Metrics against independent implementations on the same features, and on sets whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from torch import Tensor
from torch.nn import functional

from kandinsky.core.errors import DataError
from kandinsky.evaluation.clip_score import clip_score, cosines
from kandinsky.evaluation.inception_score import inception_score
from kandinsky.evaluation.moments import Moments, frechet_distance, load_moments, save_moments
from kandinsky.evaluation.precision_recall import precision_recall
from kandinsky.evaluation.resizing import resized


def features(count: int, seed: int, width: int = 12, shift: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, width, generator=draw) @ mixing + shift


def scipy_fid(first: Tensor, second: Tensor) -> float:
    """As the reference computes it: the general root of the product of covariances."""
    a, b = first.double().numpy(), second.double().numpy()
    root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    gap = a.mean(0) - b.mean(0)
    return float(gap @ gap + np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False)) - 2 * np.trace(root))


@pytest.mark.parametrize(("first", "second"), [(200, 300), (60, 13)])
def test_fid_is_that_of_the_reference(first: int, second: int) -> None:
    x, y = features(first, 0), features(second, 1, shift=0.4)
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(scipy_fid(x, y), rel=1e-4)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-8)


def test_parts_make_the_whole_in_any_order() -> None:
    x = features(101, 2) * 100 + 5000  # large means lose digits where sums of squares are kept
    whole, parts = Moments.of(x), [Moments.of(part) for part in x.tensor_split(4)]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        found = parts[order[0]]
        for place in order[1:]:
            found = found + parts[place]
        assert found.count == 101
        assert torch.allclose(found.mean, whole.mean, rtol=1e-12)
        assert torch.allclose(found.covariance, whole.covariance, rtol=1e-9, atol=1e-6)
    singles = Moments.of(x[:1])
    for row in x[1:].split(1):
        singles = singles + Moments.of(row)
    assert torch.allclose(singles.covariance, whole.covariance, rtol=1e-9, atol=1e-6)


def test_statistics_are_kept_and_those_of_others_are_read(tmp_path: Path) -> None:
    x, y = Moments.of(features(80, 3)), Moments.of(features(90, 4, shift=1))
    found, about = load_moments(save_moments(tmp_path / "x.npz", x, "val2014, clean"))
    assert (found.count, about) == (80, "val2014, clean")
    assert frechet_distance(found, y) == pytest.approx(frechet_distance(x, y), rel=1e-12)
    np.savez(tmp_path / "other.npz", mu=x.mean.numpy().astype(np.float32), sigma=x.covariance.numpy())
    other, about = load_moments(tmp_path / "other.npz")
    assert (other.count, about) == (0, "")
    assert frechet_distance(other, y) == pytest.approx(frechet_distance(x, y), rel=1e-4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04none", b"\x93NUMPY"])
def test_files_without_statistics_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz holds no statistics"):
        load_moments(tmp_path / "x.npz")


def test_statistics_that_are_none(tmp_path: Path) -> None:
    for mu, sigma in ((np.zeros(3), np.zeros((2, 2))), (np.full(2, np.nan), np.eye(2))):
        np.savez(tmp_path / "x.npz", mu=mu, sigma=sigma)
        with pytest.raises(DataError, match="holds no statistics"):
            load_moments(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(DataError, match="holds no statistics"):
        load_moments(tmp_path / "x.npz")


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.zeros(3), torch.full((2, 2), float("nan"))])
def test_features_without_moments(bad: Tensor) -> None:
    with pytest.raises(DataError):
        Moments.of(bad)


def test_sets_that_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="12 and 5 wide"):
        frechet_distance(Moments.of(features(9, 0)), Moments.of(features(9, 0, width=5)))
    with pytest.raises(DataError, match="One image"):
        frechet_distance(Moments.of(features(1, 0)), Moments.of(features(9, 0)))


def plain_precision(points: Tensor, manifold: Tensor, k: int) -> float:
    """By loops over pairs, as the definition is written."""
    count = 0
    for point in points:
        for place, centre in enumerate(manifold):
            others = sorted(float((centre - other).norm()) for i, other in enumerate(manifold) if i != place)
            if float((point - centre).norm()) <= others[k - 1]:
                count += 1
                break
    return count / len(points)


def test_precision_and_recall_are_those_of_the_definition() -> None:
    drawn, real = features(40, 5, width=3).double(), features(50, 6, width=3, shift=0.8).double()
    found = precision_recall(drawn, real)
    assert found.precision == plain_precision(drawn, real, 3)
    assert found.recall == plain_precision(real, drawn, 3)
    assert 0 < found.recall < 1
    same = precision_recall(real, real)
    assert (same.precision, same.recall) == (1, 1)
    far = precision_recall(drawn + 100, real)
    assert (far.precision, far.recall) == (0, 0)
    few = real[:4].repeat(10, 1) + torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert precision_recall(few, real).precision == 1
    assert precision_recall(few, real).recall < 0.3
    with pytest.raises(DataError, match="too few"):
        precision_recall(drawn[:3], real)


def test_inception_score_is_that_of_the_definition() -> None:
    draw = torch.Generator().manual_seed(2)
    p = torch.randn(100, 7, generator=draw).softmax(dim=1).double()
    parts = p.reshape(10, 10, 7)
    divergences = [functional.kl_div(part.mean(0).log().expand(10, 7), part, reduction="batchmean") for part in parts]
    scores = torch.stack(divergences).exp()
    found = inception_score(p)
    assert found.value == pytest.approx(float(scores.mean()), rel=1e-10)
    assert found.std == pytest.approx(float(scores.std(correction=0)), rel=1e-10)
    assert inception_score(torch.eye(5).repeat(4, 1), splits=1).value == pytest.approx(5)
    assert inception_score(torch.full((10, 5), 0.2), splits=2).value == pytest.approx(1)
    for bad in (p[:9], p * 2, -p):
        with pytest.raises(DataError):
            inception_score(bad)


def test_clip_score_is_the_mean_cosine() -> None:
    images, texts = features(6, 7), features(6, 8)
    expected = [float(a @ b / a.norm() / b.norm()) for a, b in zip(images.double(), texts.double(), strict=True)]
    found = clip_score(cosines(images, texts))
    assert found.cosine == pytest.approx(np.mean(expected), rel=1e-9)
    assert found.score == pytest.approx(100 * np.mean([max(one, 0) for one in expected]), rel=1e-9)
    with pytest.raises(DataError, match="no pairs"):
        cosines(images, texts[:5])


def gradient(width: int, height: int) -> Image.Image:
    draw = np.random.default_rng(0)
    return Image.fromarray(draw.integers(70, 180, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("side", [(40, 24), (299, 299), (640, 480)])
def test_clean_is_pillows_filter_in_floating_point(side: tuple[int, int]) -> None:
    image = gradient(*side)
    found = resized(image, 299, "clean")
    rounded = np.asarray(image.resize((299, 299), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert found.shape == (3, 299, 299)
    assert np.abs(found.numpy() - rounded).max() < 1.6  # Pillow rounds twice where it has bytes
    assert (found != found.round()).any() or side == (299, 299)
    assert (found.min(), found.max()) >= (torch.tensor(0), torch.tensor(0))


def test_tensorflow_takes_pixels_from_where_it_did() -> None:
    """Written out for one output pixel: in = out * (side_in / side_out), floor and the next, no half pixel."""
    image = gradient(50, 31)
    found = resized(image, 299, "tensorflow")
    pixels = np.asarray(image).astype(np.float64)
    for row, column in ((0, 0), (298, 298), (150, 7), (13, 290)):
        y, x = row * 31 / 299, column * 50 / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 30), min(left + 1, 49)
        upper = pixels[top, left] * (1 - (x - left)) + pixels[top, right] * (x - left)
        lower = pixels[bottom, left] * (1 - (x - left)) + pixels[bottom, right] * (x - left)
        expected = upper * (1 - (y - top)) + lower * (y - top)
        assert np.allclose(found[:, row, column].numpy(), expected, atol=1e-2)
    whole = gradient(299, 299)
    assert torch.equal(
        resized(whole, 299, "tensorflow").byte(), torch.from_numpy(np.asarray(whole).copy()).permute(2, 0, 1)
    )
