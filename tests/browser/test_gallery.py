"""The gallery and files that are dropped, in a real browser."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kandinsky.checkpoints.textual_inversion import write_words
from kandinsky.engine.meta_model import meta_model
from kandinsky.engine.text_encoders import text_encoders
from tests.browser.conftest import Visit, opened
from tests.browser.hands import Open, drop, jobs, until
from tests.server.conftest import Running, serving

pytestmark = pytest.mark.browser


def test_learned_words_and_a_gallery_that_outlives_its_server(playwright: Any, tmp_path: Path) -> None:
    rows = {name: torch.randn(1, one.width) * 0.02 for name, one in text_encoders(meta_model().model).items()}
    words = str(write_words(tmp_path / "zwx.safetensors", {"zwx": rows}))
    for turn in range(2):
        with serving(tmp_path / "data", words=[words]) as running:
            context = opened(playwright, tmp_path / f"profile{turn}")
            found = Visit(context, running)
            page = found.enter(count=2)
            if turn == 0:
                page.click(".chip:text('zwx')")
                page.keyboard.type("in the snow")
                found.draw()
            page.wait_for_selector("#thumbs button img")
            assert page.locator("#thumbs button").count() == 2
            page.locator("#thumbs button").first.click()
            page.wait_for_selector("#about :text('zwx in the snow')")
            context.close()


def test_the_gallery_is_searched_marked_compared_and_deleted(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter()
    found.draw("a gallery cat")
    found.draw("a gallery dog")
    page.fill("#search", "gallery cat")
    until(lambda: page.locator("#thumbs button").count() == 1)
    page.locator("#thumbs button").first.click()
    page.click("#act-favourite")
    page.wait_for_selector("#act-favourite[aria-pressed=true]")
    page.fill("#search", "")
    page.click("#favourites")
    until(lambda: page.locator("#thumbs button").count() == 1)
    page.click("#favourites")
    page.fill("#search", "a gallery")
    until(lambda: page.locator("#thumbs button").count() == 2)
    page.click("#act-compare")
    page.get_by_label("Image: a gallery dog").first.click()
    page.wait_for_selector("#compare-bar")
    table = page.locator(".differ").inner_text()
    assert "a gallery cat" in table
    assert "a gallery dog" in table
    page.keyboard.press("Escape")
    page.wait_for_selector("#act-delete")
    page.click("#act-delete")
    page.click("#really")
    until(lambda: page.locator("#thumbs button").count() == 1)
    assert [one["request"]["prompt"] for one in jobs(server, "a gallery")] == ["a gallery dog"]


def test_a_dropped_file_is_repeated(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(seed=77, guidance=2)
    found.draw("to be repeated")
    job = jobs(server, "to be repeated")[0]
    data = server.get(f"/api/images/{job['id']}").content
    page.evaluate("localStorage.clear()")
    page.reload()
    page.wait_for_selector("#prompt")
    page.fill("#prompt", "")
    drop(page, data)
    page.wait_for_selector("text=to be repeated")
    page.click("#drop-repeat")
    until(lambda: page.input_value("#prompt") == "to be repeated")
    assert page.input_value("#seed") == "77"
    found.draw()
    again = jobs(server, "to be repeated")
    assert len(again) == 2
    pixels = [Image.open(io.BytesIO(server.get(f"/api/images/{one['id']}").content)).tobytes() for one in again]
    assert pixels[0] == pixels[1]
