"""Every kind of image a user may have, as RGB, as a mask and as a tensor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.core.images import (
    Picture,
    crop,
    mask_array,
    open_image,
    read_image,
    read_mask,
    round_up,
    to_pil,
    to_tensor,
)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def pixel(image: Image.Image, at: tuple[int, int] = (0, 0)) -> object:
    return image.getpixel(at)


def test_transparency_is_laid_on_white() -> None:
    half = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    opened = open_image(Image.fromarray(half))
    assert [pixel(opened, (x, 0)) for x in range(3)] == [(200, 0, 0), (255, 255, 255), (127, 127, 127)]
    assert np.array_equal(np.asarray(open_image(half)), np.asarray(opened))


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=1)
    opened = open_image(tmp_path / "p.png")
    assert (opened.mode, pixel(opened), pixel(opened, (1, 0))) == ("RGB", (255, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode: str) -> None:
    opened = open_image(Image.new("RGB", (3, 2), "white").convert(mode))
    assert (opened.mode, opened.size) == ("RGB", (3, 2))
    assert min(np.asarray(opened).ravel()) >= 254


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    depth = np.array([[0, 32768, 65535]], np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    for source in (tmp_path / "depth.png", depth, Image.fromarray(depth.astype(np.int32))):
        assert np.asarray(open_image(source))[0, :, 0].tolist() == [0, 128, 255]


def test_floating_images_are_scaled() -> None:
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    for source in (values, Image.fromarray(values)):
        assert np.asarray(open_image(source))[0, :, 1].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[0.0, 100.0]], np.float32))
    assert np.asarray(open_image(wide))[0, :, 0].tolist() == [0, 100]


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "turned.jpg", exif=exif.tobytes())
    assert open_image(tmp_path / "turned.jpg").size == (2, 4)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(open_image(tmp_path / "a.gif")) == (255, 0, 0)


def test_text_named_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(RequestError, match=r"notes\.png is not an image"):
        open_image(tmp_path / "notes.png")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match=r"half\.png"):
        open_image(tmp_path / "half.png")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.png", "no image nowhere.png"),
        (np.zeros((2, 3, 5)), "2 x 3 x 5"),
        (np.zeros((0, 4)), "0 x 4"),
        (np.zeros(4), "shape 4"),
        (np.full((2, 2), 1.5), "1.5"),
        (np.full((2, 2), np.nan), "nan"),
        (np.full((2, 2), -1), "-1"),
        (np.full((2, 2), 300), "300"),
        (np.full((2, 2), "a"), "<U1"),
        (Image.fromarray(np.full((2, 2), -1.0, np.float32)), "negative"),
        (object(), "object is not an image"),
    ],
)
def test_what_is_no_image(source: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        open_image(source)  # type: ignore[arg-type]


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        open_image(tmp_path)


def test_fingerprints_depend_on_pixels_only(tmp_path: Path) -> None:
    image = Image.fromarray(noise(5, 7))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    digests = {read_image(source).sha256 for source in (image, str(tmp_path / "a.png"), tmp_path / "b.bmp")}
    assert len(digests) == 1
    assert read_image(image.rotate(180)).sha256 not in digests
    assert read_image(tmp_path / "a.png").path == str(tmp_path / "a.png")
    assert read_image(Image.open(tmp_path / "a.png")).path == str(tmp_path / "a.png")
    assert read_image(image) == Picture(image)


def test_masks_from_everything(tmp_path: Path) -> None:
    truth = np.array([[0, 1], [1, 0]], np.float32)
    grey = Image.fromarray((truth * 255).astype(np.uint8))
    grey.save(tmp_path / "m.png")
    alpha = Image.merge("RGBA", [Image.new("L", (2, 2), 255)] * 3 + [grey])
    sources = [
        truth,
        truth.astype(bool),
        truth.astype(np.uint8),
        (truth * 255).astype(np.uint8),
        (truth * 255).astype(np.int64),
        (truth * 65535).astype(np.uint16),
        truth[None],
        truth[..., None],
        truth * 0.5,
        grey,
        grey.convert("1"),
        grey.convert("RGB"),
        alpha,
        str(tmp_path / "m.png"),
        tmp_path / "m.png",
        read_mask(grey),
    ]
    for number, source in enumerate(sources):
        assert np.array_equal(mask_array(source, 2, 2), truth), number


def test_mask_threshold_is_one_half() -> None:
    values = np.array([[0.0, 0.49, 0.5, 0.51]], np.float32)
    assert mask_array(values, 4, 1).tolist() == [[0, 0, 1, 1]]


def test_masks_are_resized_as_diffusers_does() -> None:
    grey = Image.fromarray(noise(37, 53, 1)[..., 0])
    reference = np.asarray(grey.resize((24, 16), Image.Resampling.LANCZOS), np.float32) / 255
    assert np.array_equal(mask_array(grey, 24, 16), (reference >= 0.5).astype(np.float32))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (200, 104), (100, 80)])
def test_tensors_equal_diffusers(width: int, height: int) -> None:
    image = Image.fromarray(noise(80, 100))
    processor = VaeImageProcessor(vae_scale_factor=8, resample="bicubic", reducing_gap=1)
    reference = processor.preprocess(image, height=height, width=width)
    ours = to_tensor([image], width, height)
    if width % 8 == 0 and height % 8 == 0:
        assert ours.shape == reference.shape
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)
    assert (ours.dtype, ours.shape) == (torch.float32, (1, 3, height, width))


def test_padding_repeats_the_edge_and_crop_removes_it() -> None:
    image = Image.fromarray(noise(10, 12))
    padded = to_tensor([image, image], 12, 10, multiple=8)
    assert padded.shape == (2, 3, 16, 16)
    assert torch.equal(crop(padded, 12, 10), to_tensor([image, image], 12, 10))
    assert torch.equal(padded[..., 10:, :12], padded[..., 9:10, :12].expand(-1, -1, 6, -1))
    mask = np.ones((10, 12), bool)
    mask[:, 6:] = False
    grown = mask_array(mask, 12, 10, multiple=8)
    assert grown.shape == (16, 16)
    assert grown[:, :6].all()
    assert not grown[:, 6:].any()


def test_pixels_survive_the_way_there_and_back() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert np.array_equal(np.asarray(to_pil(to_tensor([image], 16, 16))[0]), np.asarray(image))


def test_to_pil_clamps_and_rounds_as_diffusers() -> None:
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 1.5
    x[0, 0, 0, :2] = torch.tensor([9.0, -9.0])
    reference = VaeImageProcessor().postprocess(x, output_type="pil")
    for ours, theirs in zip(to_pil(x.to(torch.bfloat16).float()), reference, strict=True):
        assert ours.size == theirs.size
    for ours, theirs in zip(to_pil(x), reference, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@given(st.integers(1, 10_000), st.integers(1, 512))
def test_round_up(size: int, multiple: int) -> None:
    up = round_up(size, multiple)
    assert up % multiple == 0
    assert size <= up < size + multiple
