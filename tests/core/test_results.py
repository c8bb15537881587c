"""A result as a sequence of images, as a sheet and as a notebook shows it."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from kandinsky.core import progress
from kandinsky.core.errors import OutputError
from kandinsky.core.events import Result
from kandinsky.core.requests import Request
from kandinsky.core.sheets import GAP, SHOWN_SIDE, sheet

COLOURS = ["red", "green", "blue"]


@pytest.fixture
def result() -> Result:
    request = Request(["a <fox>", "лиса", "红苹果"], seed=4)
    images = [Image.new("RGB", (32, 16), colour) for colour in COLOURS]
    return Result(images, request.seeds, request.to_json(), "m", warnings=["cut & gone"])


def test_it_is_a_sequence_of_its_images(result: Result) -> None:
    assert len(result) == 3
    assert list(result) == result.images
    assert result[0] is result.images[0]
    assert result[-1] is result.images[2]
    assert result[1:] == result.images[1:]
    first, *_ = result
    assert first is result.images[0]
    with pytest.raises(IndexError):
        result[3]


def test_what_it_says_of_itself(result: Result) -> None:
    assert repr(result) == "<Result: 3 images of 32 x 16 by m, seeds [4, 5, 6], 1 warnings>"


def test_a_grid_holds_every_image(result: Result) -> None:
    grid = result.grid()
    assert grid.size == (2 * (32 + GAP) + GAP, 2 * (16 + GAP) + GAP)
    for index, colour in enumerate(COLOURS):
        row, column = divmod(index, 2)
        place = (GAP + column * (32 + GAP) + 16, GAP + row * (16 + GAP) + 8)
        assert grid.getpixel(place) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    assert result.grid(3).size == (3 * (32 + GAP) + GAP, 16 + 2 * GAP)


def test_labels_are_written_below_images(result: Result) -> None:
    plain, labelled = result.grid(3), result.grid(3, labels=True)
    zoom = SHOWN_SIDE // 32
    below = np.asarray(labelled)[GAP + 16 * zoom :, :]
    assert labelled.width == 3 * (32 * zoom + GAP) + GAP
    assert labelled.height > plain.height
    assert (below == 0).any(), "ink"


def test_heads_and_rows_of_a_sheet() -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in (*COLOURS, "grey")]
    made = np.asarray(sheet(images, 2, rows=["steps 4", "steps 8"], heads=["guidance 2", "guidance 4"]))
    assert (made[:, : made.shape[1] // 8] == 0).any(), "rows are named on the left"
    assert (made[:20] == 0).any(), "columns are named at the top"


@pytest.mark.parametrize("columns", [0, -1])
def test_a_sheet_that_cannot_be(result: Result, columns: int) -> None:
    with pytest.raises(OutputError):
        result.grid(columns)
    with pytest.raises(OutputError, match="no images"):
        sheet([], 1)


def test_a_notebook_gets_html_with_every_image(result: Result) -> None:
    shown = result._repr_html_()
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", shown)]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in result]
    assert "a &lt;fox&gt;, seed 4" in shown
    assert "cut &amp; gone" in shown
    png = result._repr_png_()
    assert png is not None
    assert Image.open(io.BytesIO(png)).size == result.grid().size
    assert Result([], [], {})._repr_png_() is None


def test_show_opens_a_window_where_there_is_no_notebook(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []

    def show(image: Image.Image) -> None:
        shown.append(image)

    monkeypatch.setattr(Image.Image, "show", show)
    monkeypatch.setattr(progress, "notebook", lambda: None)
    result.show()
    assert [image.size for image in shown] == [result.grid().size]
