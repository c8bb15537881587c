"""Margins around an image, and pixels of the input that come back to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.metadata import Metadata, summary
from kandinsky.core.outpainting import Margins, extended, read_margins
from kandinsky.core.requests import Request
from kandinsky.tasks.paste_back import soft_edge
from tests.tiny import Checkpoints

QUICK: dict[str, Any] = {"steps": 2, "prior_steps": 2, "seed": 1}


def photo(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def hole(width: int = 64, height: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[10:30, 20:40] = True
    return mask


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


READ: dict[Any, Margins] = {
    "left=64": Margins(left=64),
    " left = 64 , top=32px": Margins(left=64, top=32),
    "left=1,top=2,right=3,bottom=4": Margins(1, 2, 3, 4),
    "left=0,top=3": Margins(top=3),
}


@pytest.mark.parametrize("text", READ)
def test_margins_of_a_text(text: str) -> None:
    assert read_margins(text) == READ[text]
    assert read_margins(str(READ[text])) == READ[text]


BAD_MARGINS: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "adds nothing"),
    "zeros": ("left=0,top=0", "adds nothing"),
    "empty": ("", "'' is no side with pixels"),
    "a number": (64, "outpaint cannot be 64"),
    "a list": ([64, 0, 0, 0], r"outpaint cannot be \[64"),
    "no pixels": ("left", "'left' is no side with pixels"),
    "misspelt": ("lft=4", "no side 'lft'. Did you mean 'left'"),
    "twice": ("left=4,left=5", "left twice"),
    "text": ("left=a", "left is 'a'. Give 0 to 8192 pixels"),
    "negative": ({"left": -1}, "left is -1"),
    "fraction": ({"left": 1.5}, "left is 1.5"),
    "true": ({"left": True}, "left is True"),
    "huge": ({"left": 9000}, "left is 9000"),
    "side is a number": ({1: 2}, "no side 1"),
    "too large a canvas": ("left=8192", "becomes 8256 x 64 pixels with outpaint left=8192. At most 8192"),
}


@pytest.mark.parametrize("name", BAD_MARGINS)
def test_margins_that_cannot_be(name: str) -> None:
    value, words = BAD_MARGINS[name]
    with pytest.raises(RequestError, match=words):
        Request("a", image=photo(), outpaint=value)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "margins of nothing": ({"outpaint": "left=8"}, "outpaint is given without an image"),
    "margins and a mask": ({"image": photo(), "mask": hole(), "outpaint": "left=8"}, "outpaint is given with a mask"),
    "pasted without a mask": ({"image": photo(), "paste_back": True}, "paste_back is given without a mask"),
    "pasted without an image": ({"paste_back": True}, "paste_back is given without a mask"),
    "blurred without a mask": ({"image": photo(), "mask_blur": 4}, "mask_blur is given without a mask"),
    "blurred but not pasted": (
        {"image": photo(), "mask": hole(), "mask_blur": 4},
        "mask_blur 4 is given without paste_back.*--paste-back",
    ),
    "blurred too far": ({"image": photo(), "mask": hole(), "mask_blur": 513}, "mask_blur 513 is outside 0 to 512"),
    "pasted perhaps": ({"image": photo(), "mask": hole(), "paste_back": 1}, "paste_back must be True or False, not 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(name: str) -> None:
    fields, words = REFUSED[name]
    with pytest.raises(RequestError, match=words):
        Request("a", **fields)


def test_the_canvas() -> None:
    image, mask = extended(Picture(photo(5, 4)), Margins(left=2, bottom=3))
    assert image.size == mask.size == (7, 7)
    assert np.array_equal(pixels(image.image)[:4, 2:], pixels(photo(5, 4)))
    assert np.array_equal(pixels(image.image)[:4, 0], pixels(photo(5, 4))[:, 0])
    wanted = np.full((7, 7), 255)
    wanted[:4, 2:] = 0
    assert np.array_equal(pixels(mask.image), wanted)


def test_the_canvas_of_a_tensor_keeps_its_numbers() -> None:
    numbers = torch.rand(3, 4, 5) * 2 - 1
    image, mask = extended(Picture.of_numbers(numbers), Margins(right=2, top=1))
    assert image.numbers is not None
    assert image.numbers.shape == (3, 5, 7)
    assert torch.equal(image.numbers[:, 1:, :5], numbers)
    assert mask.size == (7, 5)


@pytest.mark.parametrize("kind", ["text2img", "inpaint"])
@pytest.mark.parametrize("outpaint", [{"left": 32}, {"left": 13, "top": 7, "right": 5, "bottom": 2}])
def test_an_outpainted_image_is_larger_and_holds_the_image(
    tiny: Checkpoints, kind: str, outpaint: dict[str, int]
) -> None:
    """On a decoder with channels for the region and on an ordinary one; sizes need no padding, or some."""
    pipe, image = tiny.kept(kind), photo()
    (found,) = pipe.generate("a fox", image=image, outpaint=outpaint, paste_back=True, **QUICK)
    margins = Margins(**outpaint)
    assert found.size == margins.around((64, 64))
    inside = pixels(found)[margins.top : margins.top + 64, margins.left : margins.left + 64]
    assert np.array_equal(inside, pixels(image))
    (free,) = pipe.generate("a fox", image=image, outpaint=outpaint, **QUICK)
    outside = np.asarray(extended(Picture(image), margins)[1].image) == 255
    assert np.array_equal(pixels(found)[outside], pixels(free)[outside])
    assert not np.array_equal(pixels(free), pixels(found))


def test_it_is_inpainting_of_the_larger_canvas(tiny: Checkpoints) -> None:
    pipe, image = tiny.kept("inpaint"), photo()
    canvas, mask = extended(Picture(image), Margins(left=32))
    (found,) = pipe.generate("a fox", image=image, outpaint="left=32", **QUICK)
    (same,) = pipe.generate("a fox", image=canvas.image, mask=mask.image, width=96, height=64, **QUICK)
    assert found.tobytes() == same.tobytes()


def test_a_size_that_is_given_is_that_of_the_whole(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    (found,) = pipe.generate("a fox", image=photo(), outpaint={"left": 64}, width=96, height=48, **QUICK)
    assert found.size == (96, 48)
    request = Request("a", image=photo(), outpaint={"left": 64}, width=64).filled({"width": 64, "height": 64})
    assert (request.width, request.height) == (64, 32)


@pytest.mark.parametrize("kind", ["text2img", "inpaint"])
@pytest.mark.parametrize("size", [(64, 64), (72, 50)])
@pytest.mark.parametrize("blur", [None, 0, 5])
def test_what_is_not_painted_comes_back_to_the_bit(
    tiny: Checkpoints, kind: str, size: tuple[int, int], blur: int | None
) -> None:
    """Sizes need no padding, or some: the image's own are drawn."""
    image, mask = photo(*size), hole(*size)
    fields = {"image": image, "mask": mask, **QUICK}
    (found,) = tiny.kept(kind).generate("a fox", paste_back=True, mask_blur=blur, **fields)
    (free,) = tiny.kept(kind).generate("a fox", width=size[0], height=size[1], **fields)
    assert found.size == size
    reach = torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 2 * (blur or 0) + 1, 1, blur or 0)
    far = reach[0].numpy() == 0
    assert np.array_equal(pixels(found)[far], pixels(image)[far])
    assert np.array_equal(pixels(found)[mask], pixels(free)[mask])
    edge = ~far & ~mask
    assert edge.any() == bool(blur)
    low, high = np.minimum(pixels(free), pixels(image)), np.maximum(pixels(free), pixels(image))
    assert ((low <= pixels(found)) & (pixels(found) <= high)).all()


def test_each_image_of_a_batch_gets_its_own_pixels(tiny: Checkpoints) -> None:
    pipe, images = tiny.kept_own(batch_size=3), [photo(seed=seed) for seed in (1, 2)]
    result = pipe.generate(["a fox", "a cat"], image=images, mask=hole(), paste_back=True, count=2, **QUICK)
    for found, image in zip(result, [images[0], images[0], images[1], images[1]], strict=True):
        assert np.array_equal(pixels(found)[~hole()], pixels(image)[~hole()])


def test_the_edge_falls_by_equal_steps() -> None:
    mask = np.zeros((1, 8), np.float32)
    mask[0, 0] = 1
    assert soft_edge(mask, 3)[0].tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert np.array_equal(soft_edge(mask, 0), mask)


def test_a_request_with_margins_is_repeated(tiny: Checkpoints, tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    fields: dict[str, Any] = {"outpaint": "left=9,top=4", "paste_back": True, "mask_blur": 3}
    request = Request("a fox", image=tmp_path / "a.png", **fields, **QUICK)
    stored = json.loads(json.dumps(request.to_json()))
    assert stored["outpaint"] == {"left": 9, "top": 4, "right": 0, "bottom": 0}
    again = Request.from_json(stored)
    assert again == request
    pipe = tiny.kept_own()
    result = pipe.generate("a fox", image=tmp_path / "a.png", **fields, **QUICK)
    assert list(pipe.run(Request.from_json(result.request)))[-1].result[0].tobytes() == result[0].tobytes()
    text = summary(Metadata(result.request))
    for words in ("Outpaint: left=9,top=4", "Paste back: True", "Mask blur: 3"):
        assert words.replace("left=9,top=4", '"left=9,top=4"') in text


def test_strength_keeps_something_of_the_edge(tiny: Checkpoints) -> None:
    pipe = tiny.kept_own()
    found = [
        pipe.generate("a fox", image=photo(), outpaint="left=32", strength=strength, **{**QUICK, "steps": 4})[
            0
        ].tobytes()
        for strength in (None, 1.0, 0.5)
    ]
    assert found[0] == found[1] != found[2]
