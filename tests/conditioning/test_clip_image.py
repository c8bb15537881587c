"""Images for CLIP against transformers' image processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.conditioning.clip_image import ClipPreprocess
from kandinsky.core.errors import CheckpointError
from tests.parity.oracles import image_processor

SIZES = [(28, 28), (29, 28), (28, 30), (97, 31), (31, 97), (3, 200), (200, 3), (1, 1), (5, 7), (500, 333)]


def draw_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [28, 33])
def test_as_transformers(size: int) -> None:
    ours = ClipPreprocess(size=size)
    reference = image_processor()(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_convert_rgb=True
    )
    for width, height in SIZES:
        image = draw_image(width, height)
        theirs = torch.as_tensor(np.asarray(reference(image, return_tensors="np").pixel_values))
        assert (ours([image]) - theirs).abs().max() < 1e-6, (width, height)


def test_a_batch_is_its_images() -> None:
    ours = ClipPreprocess(size=14)
    images = [draw_image(*size) for size in SIZES[:4]]
    assert torch.equal(ours(images), torch.cat([ours([image]) for image in images]))


def test_there_and_back_through_transformers() -> None:
    ours = ClipPreprocess(40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert ClipPreprocess.from_json(ours.to_json()) == ours
    reference = image_processor().from_dict(ours.to_json())
    assert ClipPreprocess.from_json(reference.to_dict()) == ours
    image = draw_image(50, 41)
    theirs = torch.as_tensor(np.asarray(reference(image, return_tensors="np").pixel_values))
    assert (ours([image]) - theirs).abs().max() < 1e-6
    assert ClipPreprocess.from_json({}) == ClipPreprocess()
    assert ClipPreprocess.from_json({"size": 336, "crop_size": 336}).size == 336


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do_center_crop": False}, "do_center_crop = False"),
        ({"do_normalize": False}, "do_normalize = False"),
        ({"resample": 2}, "resample = 2"),
        ({"size": {"shortest_edge": 256}}, "resizes to 256 and crops 224"),
        ({"size": {"longest_edge": 256}}, "resizes to None"),
        ({"size": "big", "crop_size": "big"}, "size = 'big'"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\]"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"rescale_factor": 1.0}, "rescale_factor = 1.0"),
    ],
)
def test_steps_that_we_do_not_do(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        ClipPreprocess.from_json(ClipPreprocess().to_json() | change)
