"""Mixes, the way between two, sheets of settings and adapters, in a real browser."""

import pytest
from PIL import Image

from tests.browser.hands import Open, choose, jobs, picture
from tests.server.conftest import Running

pytestmark = pytest.mark.browser


def test_mixing_and_the_way_between(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(mode="mix", steps=2)
    for text in ("a mixed sun", "a mixed moon"):
        page.click("#add-text")
        page.keyboard.type(text)
    choose(page, "#add-image", picture("red"))
    page.wait_for_selector(".card img")
    found.draw()
    mixed = jobs(server, "a mixed sun")[0]["request"]["prompt"]
    assert (len(mixed["mix"]), mixed["weights"]) == (3, [0.5, 0.5, 0.5])
    assert "a mixed sun 0.5 + a mixed moon 0.5 + Picture 0.5" in page.locator("#about").inner_text()
    page.check("#strip")
    page.fill("#strip-steps", "3")
    page.keyboard.press("Tab")
    found.draw()
    assert page.locator(".strip figcaption").all_inner_texts() == ["0 %", "50 %", "100 %"]
    assert page.locator(".strip img").count() == 3
    assert len({one["seed"] for one in jobs(server, "mixed")[:3]}) == 1


def test_a_sheet_of_two_settings(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(
        mode="sheet",
        prompt="a sheet fox",
        x={"param": "steps", "values": "1, 2"},
        y={"param": "prompt", "values": "fox, owl"},
    )
    assert page.inner_text("#sheet-count") == "4 images"
    found.draw()
    assert page.locator(".sheet thead th").all_inner_texts() == ["1", "2"]
    assert page.locator(".sheet tbody th").all_inner_texts() == ["fox", "owl"]
    drawn = [(one["request"]["prompt"], one["request"]["steps"]) for one in jobs(server, "a sheet")][::-1]
    assert drawn == [("a sheet fox", 1), ("a sheet fox", 2), ("a sheet owl", 1), ("a sheet owl", 2)]
    with page.expect_download() as download:
        page.click("#save-sheet")
    assert Image.open(download.value.path()).width > 192


def test_an_adapter_is_switched_on(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(steps=None)
    page.check("text=few-step")
    found.draw("by few steps")
    job = jobs(server, "by few steps")[0]
    assert job["lora"] == {"few-step": 1}
    assert job["request"]["steps"] < 10
    found.draw("by few steps again")
    page.uncheck("text=few-step")
    page.fill("#field-steps", "3")
    page.keyboard.press("Tab")
    found.draw("by usual steps")
    assert jobs(server, "by usual steps")[0]["lora"] is None
