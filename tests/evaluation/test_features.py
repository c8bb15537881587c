"""Features in batches, kept on disk by content; the published Inception when it is installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, DataError
from kandinsky.evaluation.features import extract, load_inception, to_bytes


class Counting:
    """A fake network: mean and spread of each channel. Counts what it is shown."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        pixels = images.float()
        return torch.cat((pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))), dim=1)


def some(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_batches_give_what_one_batch_gives() -> None:
    network, images, told = Counting(), some(7), list[tuple[int, int]]()
    found = extract(network, images, batch_size=3, report=lambda done, total: told.append((done, total)))
    assert torch.equal(found, Counting()(images))
    assert network.batches == [3, 3, 1]
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_kept_features_belong_to_the_pixels(tmp_path: Path) -> None:
    network, images = Counting(), some(4)
    first = extract(network, images, cache=tmp_path)
    assert torch.equal(extract(network, images, cache=tmp_path), first)
    assert len(network.batches) == 1
    changed = images.clone()
    changed[2, 1, 3, 3] ^= 1
    assert not torch.equal(extract(network, changed, cache=tmp_path), first)
    extract(network, images, cache=tmp_path, name="other")
    assert len(network.batches) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    network, images = Counting(), some(4)
    first = extract(network, images, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"\x93NUMPY broken")
    assert torch.equal(extract(network, images, cache=tmp_path), first)
    np.save(kept, np.zeros((2, 2), dtype=np.float32))
    assert torch.equal(extract(network, images, cache=tmp_path), first)
    assert len(network.batches) == 3


def test_rounding_as_in_a_file() -> None:
    pixels = torch.tensor([-1.2, -1.0, 0.0, 0.004, 1.0, 1.5])
    assert to_bytes(pixels).tolist() == [0, 0, 128, 128, 255, 255]


def test_wrong_images_are_refused() -> None:
    with pytest.raises(DataError, match="float32"):
        extract(Counting(), some(2).float())
    with pytest.raises(DataError, match=r"\(0, 3, 8, 8\)"):
        extract(Counting(), some(0))


def test_another_file_is_not_taken_for_inception(tmp_path: Path) -> None:
    (tmp_path / "default_1.pt").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not the published Inception"):
        load_inception(tmp_path / "default_1.pt")
    with pytest.raises(DataError, match=r"gone\.pt"):
        load_inception(tmp_path / "gone.pt")


@pytest.mark.slow
def test_the_published_inception() -> None:
    try:
        features = load_inception()
    except DataError as error:
        pytest.skip(str(error))
    rows = torch.arange(64, dtype=torch.float32)
    wave = ((torch.sin(rows / 4)[:, None] + torch.cos(rows / 6)[None]) * 63 + 128).to(torch.uint8)
    images = torch.stack([torch.stack((wave, wave.T, 255 - wave)), torch.full((3, 64, 64), 128, dtype=torch.uint8)])
    found = features(images)
    assert found.shape == (2, 2048)
    assert bool(found.isfinite().all())
    # Pooled after a ReLU, and one image does not depend on its neighbour.
    assert bool((found >= 0).all())
    assert torch.allclose(features(images[:1]), found[:1], atol=1e-4)
    assert float((found[0] - found[1]).norm()) > 5
