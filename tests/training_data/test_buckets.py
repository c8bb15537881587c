"""Images of several shapes: the shapes, the order, and a run on them."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from kandinsky.core.errors import CheckpointError, ConfigError, DataError
from kandinsky.training import events, run_config
from kandinsky.training.config.run import read_config
from kandinsky.training.context import TrainContext
from kandinsky.training.data.buckets import BucketSampler, bucketed, nearest_shape
from kandinsky.training.data.folder import read_folder
from kandinsky.training.data.images import open_images


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(512, 512, (64, 64)), (400, 800, (48, 88)), (800, 400, (88, 48)), (10, 1000, (48, 88)), (100, 130, (56, 72))],
)
def test_shapes_keep_the_area(height: int, width: int, shape: tuple[int, int]) -> None:
    assert nearest_shape(height, width, 64, 8) == shape
    assert 0.75 < shape[0] * shape[1] / 64**2 < 1.25


def folder_of(root: Path) -> Path:
    root.mkdir()
    for number, size in enumerate([(40, 40), (80, 40), (80, 42), (40, 80), (50, 50)]):
        image = Image.new("RGB", size, "red")
        image.paste("yellow", (0, 0, 2, size[1]))
        image.paste("yellow", (size[0] - 2, 0, *size))
        image.save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(f"number {number}")
    return root


def test_images_go_to_the_nearest_shape(tmp_path: Path) -> None:
    found = bucketed(read_folder(folder_of(tmp_path / "images")), 32, 8)
    names = {shape: [record.file_name for record in part.records] for shape, part in found.items()}
    assert names == {(24, 48): ["1.png", "2.png"], (32, 32): ["0.png", "4.png"], (48, 24): ["3.png"]}
    wide = open_images(found[24, 48], (24, 48))
    assert wide.shape == (24, 48)
    assert wide.plain([0]).shape == (1, 3, 24, 48)
    # Nothing of an image of that shape is cut off: its edges are where they were.
    row = wide.plain([0])[0, 1, 12]
    assert bool((row[[0, -1]] > 0.5).all())
    assert bool((row[2:-2] < -0.5).all())
    (tmp_path / "images" / "0.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"'0\.png' is not a readable image"):
        bucketed(read_folder(tmp_path / "images"), 32, 8)


def test_batches_are_of_one_bucket_and_an_epoch_has_everything() -> None:
    """Each image counts once, whatever its shape: a bucket that does not fill a batch makes a smaller one."""
    sampler = BucketSampler([5, 1, 4], 2, seed=3)
    batches = [sampler.next() for _ in range(6)]
    bounds = [range(5), range(5, 6), range(6, 10)]
    assert all(any(set(batch) <= set(bound) for bound in bounds) for batch in batches)
    counts = Counter(index for batch in batches for index in batch)
    assert counts == dict.fromkeys(range(10), 1)
    assert sorted(map(len, batches)) == [1, 1, 2, 2, 2, 2]
    assert sampler.state()["batches"] == 6
    assert [sampler.next() for _ in range(6)] != batches
    again = BucketSampler([5, 1, 4], 2, seed=3)
    again.restore({"epoch": 0, "position": 2, "count": 10})
    assert [again.next() for _ in range(4)] == batches[2:]
    larger = BucketSampler([5, 1, 4], 4, seed=3)
    larger.restore({"epoch": 0, "position": 2, "count": 10, "batch": 2})
    assert [larger.next() for _ in range(4)] == batches[2:], "an epoch that is begun ends as it was"
    assert sorted(len(larger.next()) for _ in range(4)) == [1, 1, 4, 4]
    with pytest.raises(CheckpointError, match="10 examples"):
        BucketSampler([5], 2, seed=3).restore(again.state())


@pytest.mark.parametrize("variants", [0, 1])
def test_a_run_on_shapes(variants: int, tmp_path: Path) -> None:
    values = {
        "out": str(tmp_path / "run"),
        "method": "lora",
        "device": "cpu",
        "threads": 1,
        "batch": 2,
        "max_steps": 4,
        "variants": variants,
        "sample_every": 4,
        "data": {"folder": str(folder_of(tmp_path / "images")), "size": 64, "buckets": 16},
        "objective": {"adapter": {"rank": 1}},
    }
    assert isinstance([*run_config(values)][-1], events.Exported)
    sheets = list((tmp_path / "run").rglob("samples/*.png"))
    with Image.open(sheets[0]) as sheet:
        assert sheet.height == 48


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    values = {
        "out": str(tmp_path / "run"),
        "method": "lora",
        "max_steps": 1,
        "data": {"folder": str(folder_of(tmp_path / "images")), "size": 36, "buckets": 9},
    }
    with pytest.raises(ConfigError, match="do not fit this checkpoint"):
        [*run_config(values)]
    with pytest.raises(ConfigError, match="one shape"):
        read_config(values | {"method": "distill"})
    with pytest.raises(ConfigError, match="held_out is 5, but there are only 5"):
        [*run_config(values | {"data": {**values["data"], "size": 64, "buckets": 16, "held_out": 5}})]


@pytest.mark.parametrize("method", ["dreambooth", "textual_inversion"])
def test_few_images_in_their_shapes(method: str, tmp_path: Path) -> None:
    objectives = {
        "dreambooth": {
            "prompt": "a zwx box",
            "class_prompt": "a box",
            "class_images": 1,
            "class_steps": 1,
            "target": "prior",
            "adapter": {"rank": 1},
        },
        "textual_inversion": {"token": "zwx", "init_from": "red"},
    }
    folder = folder_of(tmp_path / "images")
    values = {
        "out": str(tmp_path / "run"),
        "method": method,
        "device": "cpu",
        "threads": 1,
        "batch": 2,
        "max_steps": 2,
        "sample_every": 2,
        "data": {"folder": str(folder), "size": 64, "buckets": 16, "held_out": 2},
        "objective": objectives[method],
    }
    found = [*run_config(values)]
    assert isinstance(found[-1], events.Exported)
    (measured,) = [event for event in found if isinstance(event, events.Measured)]
    assert set(measured.values) == {"prior/mse" if method == "dreambooth" else "words/prior"}
    if method == "dreambooth":
        shapes = {path.parent.name: Image.open(path).size for path in (tmp_path / "run").rglob("class/*/*.png")}
        assert shapes
        assert all(name == f"{height}x{width}" for name, (width, height) in shapes.items())


def test_shapes_of_test_images_alone_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images")
    rows = [{"file_name": f"{n}.png", "caption": str(n), "split": "test" if n == 3 else "train"} for n in range(5)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    values = {
        "out": "unused",
        "method": "lora",
        "max_steps": 1,
        "data": {"folder": str(folder), "size": 64, "buckets": 16, "held_out": 1},
    }
    config = read_config(values)
    learned, held_out = TrainContext(config, torch.device("cpu")).data.shapes(config.data.size)
    assert len({one.shape for one in learned + held_out}) == 2
    assert sum(map(len, learned)) == 3
    assert sum(map(len, held_out)) == 1


def test_transparent_images_get_room(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    alpha = open_images(tmp_path, (40, 40)).planes[torch.tensor([0])][0, 3]
    assert bool((alpha[10:30] == 128).all())
    assert not torch.cat([alpha[:10], alpha[30:]]).any()
