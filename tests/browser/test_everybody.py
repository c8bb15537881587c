"""The page for everybody: by keyboard, by screen reader, in Russian, in the dark, on a phone."""

import pytest

from tests.browser.hands import LOADED, Open, jobs, until
from tests.server.conftest import Running

pytestmark = pytest.mark.browser


def test_by_the_keyboard_alone(visit: Open, server: Running) -> None:
    page = visit().enter()

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            if page.evaluate("(one) => document.activeElement?.matches(one) ?? false", selector):
                return
            page.keyboard.press(key)
        raise AssertionError(f"the keyboard does not reach {selector}")

    tab_to("#prompt")
    page.keyboard.type("drawn by keys")
    tab_to("#go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#act-favourite")
    tab_to("#act-favourite")
    page.keyboard.press("Enter")
    page.wait_for_selector("#act-favourite[aria-pressed=true]")
    tab_to("#act-edit")
    page.keyboard.press("Space")
    page.wait_for_selector(LOADED)
    tab_to("#easel")
    page.keyboard.down("Space")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.up("Space")
    page.wait_for_selector("#undo:enabled")
    page.keyboard.press("Control+z")
    page.wait_for_selector("#undo:disabled")
    page.keyboard.press("Control+y")
    tab_to("#prompt", "Shift+Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("edited by keys")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#act-favourite")
    assert jobs(server, "edited by keys")[0]["request"]["mask"] is not None
    tab_to("#thumbs button")
    before = page.evaluate("document.activeElement.dataset.id")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.id") != before
    page.keyboard.press("Enter")
    page.wait_for_selector("text=drawn by keys")
    tab_to("[role=tab]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id").startswith("mode-")


def test_in_russian_in_the_dark_and_on_a_phone(visit: Open, server: Running) -> None:
    page = visit(width=375, height=740, locale="ru-RU", color_scheme="dark", has_touch=True).enter()
    page.wait_for_selector("text=Запрос")
    assert page.evaluate("document.documentElement.lang") == "ru"
    page.fill("#prompt", "лиса на телефоне")
    page.tap("#go")
    page.wait_for_selector(".tile img")
    for pane in ("gallery", "panel", "stage"):
        page.tap(f"#panes [data-pane={pane}]")
        until(lambda pane=pane: page.locator(f"#{pane}").is_visible())
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.tap("#language")
    page.wait_for_selector("text=Use settings", state="attached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(visit: Open, server: Running, scheme: str) -> None:
    page = visit(color_scheme=scheme).enter()
    papers = {"light": "rgb(243, 241, 236)", "dark": "rgb(19, 18, 17)"}
    other = "dark" if scheme == "light" else "light"
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(paper) == papers[scheme]
    page.emulate_media(color_scheme=other)
    assert page.evaluate(paper) == papers[other]
    page.emulate_media(color_scheme=scheme)
    page.click("#theme")
    assert page.evaluate(paper) == papers[other]
    page.reload()
    page.wait_for_selector("#theme")
    assert page.evaluate(paper) == papers[other]
    page.emulate_media(color_scheme=other)
    page.click("#theme")
    assert page.evaluate(paper) == papers[scheme]


@pytest.mark.parametrize("locale", ["en-US", "ru-RU"])
def test_nothing_is_cut_off(visit: Open, server: Running, locale: str) -> None:
    page = visit(locale=locale).enter()
    outside = """() => {
        const form = document.getElementById("form");
        const right = form.getBoundingClientRect().right;
        return [...form.querySelectorAll("button, input, select, textarea")]
            .filter((one) => one.getBoundingClientRect().right > right + 0.5).map((one) => one.outerHTML);
    }"""
    for width in (1280, 900, 375, 320):
        page.set_viewport_size({"width": width, "height": 740})
        for mode in ("draw", "edit", "mix", "sheet"):
            page.click(f"#mode-{mode}")
            assert page.evaluate(outside) == [], (width, mode)


def test_what_can_be_done_with_an_image_stands_in_one_line_on_a_phone(visit: Open, server: Running) -> None:
    found = visit(width=375, height=740)
    page = found.enter(count=2)
    found.draw("seen on a phone")
    page.locator(".tile").first.click()
    page.wait_for_selector("#act-delete")
    tops = {one.bounding_box()["y"] for one in page.locator(".about .acts .btn").all()}
    assert len(tops) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Open, server: Running, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = visit(color_scheme=scheme)
    page = found.enter()

    def check(where: str) -> None:
        page.wait_for_timeout(250)
        bad = [
            (one["id"], one["impact"], [node["html"][:160] for node in one["nodes"]])
            for one in axe.run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not bad, (where, bad)

    check("welcome")
    found.draw("seen by axe")
    check("an image")
    for mode in ("edit", "mix", "sheet", "draw"):
        page.click(f"#mode-{mode}")
        check(mode)
    page.click("#act-edit") if page.locator("#act-edit").count() else page.click("#mode-edit")
    page.wait_for_timeout(500)
    check("the easel")
    page.click("#open-queue")
    check("the queue")
    page.keyboard.press("Escape")
    page.click("#help")
    check("help")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 375, "height": 740})
    for pane in ("panel", "stage", "gallery"):
        page.click(f"#panes [data-pane={pane}]")
        check(f"{pane} on a phone")
