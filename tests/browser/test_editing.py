"""Pictures that are painted over and extended, by mouse, finger and keys, in a real browser."""

import io
import time
from typing import Any

import pytest
from PIL import Image

from tests.browser.hands import LOADED, Open, choose, drop, jobs, picture, until
from tests.server.conftest import Running

pytestmark = pytest.mark.browser


def test_a_painted_mask_keeps_the_rest(visit: Open, server: Running) -> None:
    page = visit().enter(mode="edit", prompt="a blue square", steps=4)
    choose(page, "#choose", picture("orange"))
    easel = page.locator("#easel")
    page.wait_for_selector(LOADED)
    box = easel.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + (box["height"] - 48) / 2
    page.mouse.move(x - 40, y - 40)
    page.mouse.down()
    page.mouse.move(x + 40, y + 40, steps=8)
    page.mouse.up()
    assert page.locator("#undo").is_enabled()
    page.click("#undo")
    assert page.locator("#undo").is_disabled()
    page.click("#redo")
    page.click("#go")
    page.wait_for_selector(".tile img")
    job = jobs(server, "a blue square")[0]
    assert job["request"]["mask"] is not None
    data = server.get(f"/api/images/{job['id']}").content
    corner = Image.open(io.BytesIO(data)).convert("RGB").getpixel((2, 2))
    assert corner == (255, 165, 0)
    assert job["request"]["paste_back"]
    mask = server.get(f"/api/inputs/{job['request']['mask']['sha256']}").content
    painted = Image.open(io.BytesIO(mask)).convert("L")
    assert painted.getpixel((32, 32)) == 255
    assert painted.getpixel((2, 2)) == 0


def test_a_finger_paints_and_two_zoom(visit: Open, server: Running) -> None:
    found = visit(width=390, height=780, has_touch=True)
    page = found.enter(mode="edit", prompt="by a finger", steps=2)
    choose(page, "#choose", picture())
    page.wait_for_selector(LOADED)
    box = page.locator("#easel").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    raw = found.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": one[0], "y": one[1], "id": i} for i, one in enumerate(points)]
        raw.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    page.tap("#rubber")
    until(lambda: page.locator("#rubber").get_attribute("aria-pressed") == "true")
    page.tap("#pen")
    before = page.evaluate("document.getElementById('easel').toDataURL()")
    touch("touchStart", (x - 30, y))
    touch("touchStart", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 90, y), (x + 90, y))
    touch("touchEnd")
    until(lambda: page.evaluate("document.getElementById('easel').toDataURL()") != before)
    assert page.locator("#undo").is_disabled()  # two fingers paint nothing
    touch("touchStart", (x, y))
    touch("touchMove", (x + 20, y + 20))
    touch("touchEnd")
    until(lambda: page.locator("#undo").is_enabled())
    page.locator(".bars").get_by_role("button", name="Draw").click()
    page.wait_for_selector(".tile img")
    assert jobs(server, "by a finger")[0]["request"]["mask"] is not None


def test_extending_a_picture(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(mode="edit", prompt="wider than before", steps=2)
    choose(page, "#choose", picture("green"))
    page.wait_for_selector(LOADED)
    page.click("#extend")
    page.fill("#extend-right", "64")
    page.keyboard.press("Tab")
    page.click("#go")
    page.wait_for_selector(".tile img")
    job = jobs(server, "wider than before")[0]
    # As the command line and the APIs ask for it: the picture as it is, and the margins.
    assert job["request"]["outpaint"] == {"left": 0, "top": 0, "right": 64, "bottom": 0}
    assert (job["request"]["image"]["size"], job["request"]["mask"], job["size"]) == ([64, 64], None, [128, 64])
    drawn = Image.open(io.BytesIO(server.get(f"/api/images/{job['id']}").content)).convert("RGB")
    assert {drawn.getpixel((x, y)) for x in range(56) for y in range(64)} == {(0, 128, 0)}
    assert len({drawn.getpixel((x, y)) for x in range(72, 128) for y in range(64)}) > 100
    page.click("#act-settings")
    page.wait_for_selector("#easel")
    until(lambda: page.input_value("#extend-right") == "64")
    found.draw()
    again = jobs(server, "wider than before")
    assert [one["request"]["outpaint"] for one in again] == [job["request"]["outpaint"]] * 2
    pixels = [Image.open(io.BytesIO(server.get(f"/api/images/{one['id']}").content)).tobytes() for one in again]
    assert pixels[0] == pixels[1]


def test_a_painted_and_extended_picture(visit: Open, server: Running) -> None:
    """Margins with a mask are one picture and one mask; what was painted comes back with its settings."""
    found = visit()
    page = found.enter(mode="edit", prompt="painted and wider", steps=2)
    choose(page, "#choose", picture("green"))
    page.wait_for_selector(LOADED)
    page.click("#extend")
    page.fill("#extend-bottom", "32")
    page.keyboard.press("Tab")
    page.focus("#easel")
    page.keyboard.press("Space")
    page.wait_for_selector("#undo:enabled")
    found.draw()
    job = jobs(server, "painted and wider")[0]
    assert (job["request"]["outpaint"], job["request"]["image"]["size"]) == (None, [64, 96])
    address = f"/api/inputs/{job['request']['mask']['sha256']}"
    mask = Image.open(io.BytesIO(server.get(address).content)).convert("L")
    assert [mask.getpixel(at) for at in ((32, 32), (4, 4), (4, 80))] == [255, 0, 255]
    page.reload()
    page.wait_for_selector("#act-settings")
    page.click("#act-settings")
    page.wait_for_selector(LOADED)
    found.draw()
    again = jobs(server, "painted and wider")[0]["request"]
    assert again["mask"]["sha256"] == job["request"]["mask"]["sha256"]
    assert again["image"]["sha256"] == job["request"]["image"]["sha256"]


def test_drawing_waits_for_what_was_painted(visit: Open, server: Running) -> None:
    """Settings are drawn again with their mask, however slowly it comes, and not at all without it."""
    found = visit(errors=True)
    page = found.enter(mode="edit", prompt="a slow mask", steps=2)
    choose(page, "#choose", picture("green"))
    page.wait_for_selector(LOADED)
    page.focus("#easel")
    page.keyboard.press("Space")
    page.wait_for_selector("#undo:enabled")
    found.draw()
    (job,) = jobs(server, "a slow mask")
    sha = job["request"]["mask"]["sha256"]
    held: list[Any] = []

    def hold(route: Any) -> None:
        if route.request.resource_type == "image":
            held.append(route)
        else:
            route.continue_()

    page.route(f"**/api/inputs/{sha}", hold)

    def asked_again() -> Any:
        deadline = time.monotonic() + 60
        while not held:
            assert time.monotonic() < deadline
            page.wait_for_timeout(20)
        return held.pop()

    page.wait_for_selector("#act-settings")
    page.click("#act-settings")
    route = asked_again()
    page.click("#go")
    page.wait_for_timeout(300)
    assert len(jobs(server, "a slow mask")) == 1
    route.abort()
    page.wait_for_selector("text=could not be loaded")
    assert len(jobs(server, "a slow mask")) == 1
    page.click("#go")
    asked_again().continue_()
    until(lambda: len(jobs(server, "a slow mask")) == 2)
    assert [one["request"]["mask"]["sha256"] for one in jobs(server, "a slow mask")] == [sha, sha]


def test_a_picture_that_says_nothing_is_edited(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter()
    page.wait_for_selector("#prompt")
    drop(page, picture("purple")["buffer"])
    page.wait_for_selector("text=does not say how it was made")
    page.click("#drop-edit")
    page.wait_for_selector("#easel")
    assert page.get_attribute("#mode-edit", "aria-selected") == "true"
    kept = server.get(page.get_attribute(".slot img", "src")).content
    assert set(Image.open(io.BytesIO(kept)).convert("RGB").get_flattened_data()) == {(128, 0, 128)}
    found.draw("said by nobody")
    (job,) = jobs(server, "said by nobody")
    assert (job["state"], job["request"]["strength"], job["request"]["mask"]) == ("done", 0.6, None)
    assert job["request"]["image"]["sha256"] in page.get_attribute(".slot img", "src")


def test_a_pasted_picture_is_edited(visit: Open, server: Running) -> None:
    page = visit().enter()
    page.wait_for_selector("#prompt")
    page.evaluate(
        """(bytes) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
            const given = { clipboardData: carried, bubbles: true, cancelable: true };
            document.dispatchEvent(new ClipboardEvent("paste", given));
        }""",
        list(picture("teal")["buffer"]),
    )
    page.click("#drop-edit")
    page.wait_for_selector("#easel")
    kept = server.get(page.get_attribute(".slot img", "src")).content
    assert Image.open(io.BytesIO(kept)).convert("RGB").getpixel((9, 9)) == (0, 128, 128)


def test_a_picture_larger_than_the_model_draws_is_kept_at_the_size_that_it_gets(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(mode="edit", prompt="too large", steps=2)
    choose(page, "#choose", picture("olive", (192, 144)))
    page.wait_for_selector(LOADED)
    for extended in (False, True):
        if extended:
            page.click("#clear")
            page.click("#extend")
            page.fill("#extend-right", "96")
            page.keyboard.press("Tab")
        else:
            page.focus("#easel")
            page.keyboard.press("Space")
            page.wait_for_selector("#undo:enabled")
        found.draw()
        job = jobs(server, "too large")[0]
        size = [88, 48] if extended else [72, 56]
        assert (job["size"], job["request"]["paste_back"], bool(job["request"]["outpaint"])) == (size, True, extended)
        assert f"it becomes {size[0]} × {size[1]}" in page.locator("#toasts").inner_text()
        drawn = Image.open(io.BytesIO(server.get(f"/api/images/{job['id']}").content)).convert("RGB")
        assert {drawn.getpixel((x, y)) for x in range(8) for y in range(40)} == {(128, 128, 0)}
        page.click("#mode-edit")
        page.wait_for_selector("#easel")


def test_the_form_shows_what_acts_on_a_painted_picture(visit: Open, server: Running) -> None:
    page = visit().enter(mode="edit")
    choose(page, "#choose", picture())
    page.wait_for_selector(LOADED)
    seen = lambda: [page.locator(one).is_visible() for one in ("#strength", "#exact")]  # noqa: E731
    assert seen() == [True, False]
    page.focus("#easel")
    page.keyboard.press("Space")
    page.wait_for_selector("#undo:enabled")
    assert seen() == [False, True]
    page.click("#undo")
    assert seen() == [True, False]
    page.click("#extend")
    page.fill("#extend-left", "8")
    page.keyboard.press("Tab")
    assert seen() == [False, True]
