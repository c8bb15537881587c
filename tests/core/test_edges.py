"""Edges against what is known of them by construction."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import kandinsky
from kandinsky.core.edges import edge_map
from kandinsky.core.errors import RequestError


def step(height: float) -> np.ndarray:
    pixels = np.zeros((16, 20, 3), np.uint8)
    pixels[:, 10:] = round(255 * height)
    return pixels


def test_an_edge_is_one_pixel_wide_and_where_the_step_is() -> None:
    found = edge_map(step(1.0))
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    columns = np.flatnonzero(found.any(0))
    assert len(columns) == 1
    assert columns[0] in (9, 10)
    assert found[:, columns[0]].all()
    assert np.array_equal(edge_map(step(1.0).transpose(1, 0, 2)), found.T)


def test_weak_edges_count_where_strong_ones_lead_to_them() -> None:
    weak = edge_map(step(0.25))
    assert not weak.any()
    assert edge_map(step(0.25), low=0.05, high=0.1).any()
    both = step(0.25)
    both[:, 10:] = np.linspace(255, 64, 16)[:, None, None]
    assert edge_map(both)[-1].any()
    assert not edge_map(both, low=0.2, high=0.2)[-1].any()


def test_a_flat_image_has_none() -> None:
    assert not edge_map(np.full((8, 8, 3), 77, np.uint8)).any()


def test_edges_of_a_user_image() -> None:
    image = Image.new("RGB", (100, 50), "white")
    ImageDraw.Draw(image).ellipse((10, 5, 90, 45), fill="navy")
    drawn = kandinsky.edges(image, 64, 32)
    assert (drawn.mode, drawn.size) == ("RGB", (64, 32))
    values = np.asarray(drawn)[..., 0] > 0
    # A closed curve: outside and inside are apart.
    outside = np.zeros_like(values)
    front = [(0, 0)]
    while front:
        y, x = front.pop()
        if 0 <= y < 32 and 0 <= x < 64 and not values[y, x] and not outside[y, x]:
            outside[y, x] = True
            front += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    assert not outside[16, 32]
    assert kandinsky.edges(image).size == (100, 50)
    with pytest.raises(RequestError):
        kandinsky.edges("nowhere.png")
