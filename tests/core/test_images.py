"""Every kind of image a user may have, as RGB, as a mask and as a tensor."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from kandinsky.core.errors import RequestError
from kandinsky.core.image_files import image_size, image_suffixes, is_image_name
from kandinsky.core.images import (
    Picture,
    crop,
    mask_array,
    open_image,
    pixels_of,
    read_image,
    read_layers,
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


LIMIT = 4000
"""Pixels that Pillow warns of, in these tests; twice as many it refuses."""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_upright_and_its_size_known(suffix: str, orientation: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("red", (0, 0, 40, 4))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix.upper()}"
    turned.save(path, exif=exif.tobytes())
    for opened in (open_image(path), read_layers(path)):
        assert opened.size == image_size(path) == (40, 20)
        assert np.asarray(opened)[1, :, 1].max() < 80
        assert np.asarray(opened)[10:, :, 1].min() > 180


def test_layers_keep_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    Image.fromarray(np.array([[[9, 9, 9], [255, 0, 0]]], np.uint8)).save(tmp_path / "t.png", transparency=(9, 9, 9))
    Image.new("LA", (2, 1), (7, 0)).save(tmp_path / "la.png")
    alphas = {name: np.asarray(read_layers(tmp_path / name))[0, :, 3].tolist() for name in ("p.png", "t.png", "la.png")}
    assert alphas == {"p.png": [255, 0], "t.png": [0, 255], "la.png": [0, 0]}
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "depth.png")
    assert np.asarray(read_layers(tmp_path / "depth.png"))[0, :, 1].tolist() == [0, 128, 255]


def profile_of(gamma: float) -> bytes:
    """A profile of sRGB's primaries with another gamma: the tables of its curves are replaced."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        name, at = bytes(data[entry : entry + 4]), int.from_bytes(data[entry + 4 : entry + 8], "big")
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[at : at + 14] = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
            data[entry + 8 : entry + 12] = (14).to_bytes(4, "big")
        if name == b"desc":
            data[at : at + 200] = bytes(data[at : at + 200]).replace(
                "sRGB".encode("utf-16-be"), "mine".encode("utf-16-be")
            )
    return bytes(data)


def test_colour_profiles_are_applied(tmp_path: Path) -> None:
    grey = Image.new("RGB", (4, 4), (128, 128, 128))
    grey.save(tmp_path / "plain.png")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey.save(tmp_path / "srgb.png", icc_profile=srgb)
    grey.save(tmp_path / "linear.png", icc_profile=profile_of(1.0))
    grey.save(tmp_path / "broken.png", icc_profile=b"no profile")
    clear = grey.convert("RGBA")
    clear.putalpha(90)
    clear.save(tmp_path / "clear.png", icc_profile=profile_of(1.0))
    for name in ("plain.png", "srgb.png", "broken.png"):
        assert pixel(open_image(tmp_path / name)) == (128, 128, 128), name
    # Half of linear light is 188 of 255 in sRGB (IEC 61966-2-1).
    assert np.asarray(open_image(tmp_path / "linear.png")) == pytest.approx(188, abs=1)
    layers = np.asarray(read_layers(tmp_path / "clear.png"))
    assert layers[..., :3] == pytest.approx(188, abs=1)
    assert (layers[..., 3] == 90).all()


def test_too_many_pixels_are_one_line_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    Image.new("L", (100, 60)).save(tmp_path / "large.png")
    Image.new("L", (100, 90)).save(tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "large.png").size == image_size(tmp_path / "large.png") == (100, 60)
    for read in (open_image, read_layers, image_size):
        with pytest.raises(RequestError, match=r"bomb\.png has too many pixels") as raised:
            read(tmp_path / "bomb.png")
        assert "\n" not in str(raised.value)


def test_suffixes_are_those_that_pillow_reads() -> None:
    known = {
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".tga",
        ".ppm",
        ".jp2",
    }
    assert known <= image_suffixes()
    assert not {".txt", ".json", ".csv", ".tar", ".eps", ".ps", ".pdf", ".mpg", ".h5"} & image_suffixes()
    assert is_image_name("A.JPG")


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


UNIT = torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (UNIT, UNIT * 2 - 1),
        (UNIT[None], UNIT * 2 - 1),
        (UNIT * 2 - 1, UNIT * 2 - 1),
        ((UNIT * 255).round().byte(), (UNIT * 255).round() / 127.5 - 1),
        ((UNIT * 255).round().long(), (UNIT * 255).round() / 127.5 - 1),
        (UNIT[:1], UNIT[:1].expand(3, -1, -1) * 2 - 1),
        (UNIT > 0.5, (UNIT > 0.5).float() * 2 - 1),
        (UNIT.double().requires_grad_(), UNIT * 2 - 1),
    ],
)
def test_tensors_are_images(given: torch.Tensor, wanted: torch.Tensor) -> None:
    image = read_image(given)
    assert image.numbers is not None
    assert torch.allclose(image.numbers, wanted, atol=1e-6)
    assert (image.image.mode, image.size) == ("RGB", (12, 10))
    assert np.abs(np.asarray(image.image, float) - ((wanted + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.51
    assert torch.equal(pixels_of([image], 12, 10), image.numbers[None])
    assert pixels_of([image, image], 12, 10, 8).shape == (2, 3, 16, 16)
    assert torch.equal(pixels_of([image], 12, 10, 8)[..., :10, :12], image.numbers[None])
    assert read_image(image) is image


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (UNIT * 3, "from 0.* to 3"),
        (UNIT * 4 - 2, r"Scale it to -1\.\.1"),
        ((UNIT * 300).int(), r"Whole numbers are in 0\.\.255"),
        (UNIT - torch.nan, "nan"),
        (torch.zeros(2, 3, 4, 4), "several a list of them"),
        (torch.zeros(4, 4), "is not an image"),
        (torch.zeros(3, 0, 4), "is not an image"),
    ],
)
def test_other_tensors_are_refused_with_their_range(given: torch.Tensor, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_image(given)


def test_overshoot_of_resizing_is_cut_and_the_range_judged_before() -> None:
    sharp = torch.zeros(3, 16, 16)
    sharp[:, 4:12, 4:12] = 1.0
    large = pixels_of([read_image(sharp)], 37, 41)
    assert float(large.min()) == -1
    assert float(large.max()) == 1
    plain = to_tensor([read_image(sharp).image], 37, 41)
    assert float((large - plain).abs().mean()) < 0.02


def test_masks_of_tensors() -> None:
    marked = torch.zeros(10, 12)
    marked[2:5] = 1
    for source in (marked, marked.bool(), marked.byte(), marked[None], (marked * 255).byte()):
        assert np.array_equal(mask_array(read_mask(source), 12, 10), marked.numpy())


def test_pictures_of_other_numbers_are_other_pictures() -> None:
    first, second = read_image(UNIT), read_image((UNIT - 1e-5).clamp(0, 1))
    assert first != second
    assert first == read_image(UNIT.clone())
