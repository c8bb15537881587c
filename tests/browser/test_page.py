"""The page in a real browser: images on their way, the queue, errors, who comes in, and what nothing may become."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser.hands import Open, drop, jobs, until
from tests.server.conftest import TOKENS, Running

pytestmark = pytest.mark.browser


def test_the_first_image(visit: Open, server: Running) -> None:
    page = visit().enter(count=2, steps=200)  # so many that a preview comes before the image
    page.fill("#prompt", "a first fox")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".tile canvas")  # a preview
    assert page.get_by_role("progressbar").get_attribute("aria-valuenow") is not None
    page.wait_for_selector("#progress:not(.progress)", state="attached")
    assert page.locator(".tile img").count() == 2
    assert page.locator("#thumbs button").count() >= 2
    until(lambda: "2 images are done" in page.locator("#said").inner_text())
    page.locator(".tile").first.click()
    assert "a first fox" in page.locator("#about").inner_text()
    assert [one["state"] for one in jobs(server, "a first fox")] == ["done", "done"]
    page.reload()
    page.wait_for_selector("#thumbs button img")


def test_an_answer_that_comes_after_the_image(visit: Open, server: Running) -> None:
    """Events may be quicker than the answer of the request that asked: what has ended stays ended."""
    found = visit()
    page = found.enter(steps=2, prompt="late word")

    def late(route: Any) -> None:
        answer = route.fetch()
        until(lambda: [one["state"] for one in jobs(server, "late word")] == ["done"])
        page.wait_for_selector("#thumbs button img")  # the page has heard of it
        route.fulfill(response=answer)

    page.route("**/api/jobs", late)
    found.draw()
    assert page.locator(".tile img").count() == 1


def test_cancelling(visit: Open, server: Running) -> None:
    page = visit().enter(steps=1000)
    page.fill("#prompt", "never ends")
    page.click("#go")
    page.wait_for_selector(".tile canvas")
    page.click("#cancel")
    page.wait_for_selector("text=Cancelled")
    assert jobs(server, "never ends")[0]["state"] == "cancelled"
    page.click("#again")
    until(lambda: len(jobs(server, "never ends")) == 2)
    page.wait_for_selector(".tile canvas")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Cancelled")


def test_a_page_that_is_loaded_again_goes_on_watching(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter(steps=900)
    page.fill("#prompt", "in the middle")
    page.click("#go")
    page.wait_for_selector(".tile canvas")
    page.reload()
    page.wait_for_selector(".tile canvas")
    (job,) = jobs(server, "in the middle")
    server.send("DELETE", f"/api/jobs/{job['id']}")  # by another page
    page.wait_for_selector("text=Cancelled")
    assert jobs(server, "in the middle")[0]["state"] == "cancelled"


def test_a_server_that_is_gone_for_a_while(visit: Open, server: Running) -> None:
    found = visit(errors=True)
    page = found.enter()
    found.context.set_offline(True)
    page.fill("#prompt", "nobody hears")
    page.click("#go")
    page.wait_for_selector("text=The server does not answer")
    found.context.set_offline(False)
    found.draw("heard again")
    assert jobs(server, "nobody hears") == []


def test_a_line_that_breaks_for_a_moment_asks_anew(visit: Open, server: Running) -> None:
    """What was told meanwhile is told to nobody again, even where the page had no time to say that it is offline."""
    found = visit()
    page = found.page
    page.add_init_script(
        "window.EventSource = class extends EventSource { constructor(at) { super(at); window.line = this; } }"
    )
    found.enter()
    until(lambda: page.evaluate("window.line.readyState") == 1)
    with page.expect_request("**/api/queue*"):
        page.evaluate("window.line.onerror(); window.line.onopen()")


def test_errors_are_told_kindly(visit: Open, server: Running) -> None:
    page = visit(errors=True).enter()
    page.fill("#prompt", "")
    page.click("#go")
    assert "Say first what to draw" in page.locator(".toast").last.inner_text()
    assert page.locator("#prompt").get_attribute("aria-invalid") == "true"
    page.fill("#prompt", "an error")
    page.fill("#side-width", "9000")
    page.keyboard.press("Tab")
    page.click("#go")
    until(lambda: "8192" in page.locator("#toasts").inner_text())
    drop(page, b"no image")
    page.wait_for_selector("text=This is no picture")
    page.route("**/api/jobs", lambda route: route.abort())
    page.click("#go")
    page.wait_for_selector("text=The server does not answer")


def test_the_queue_is_reordered_and_emptied(visit: Open, server: Running) -> None:
    page = visit().enter(steps=1000)
    for steps, name in ((1000, "first"), (999, "second"), (998, "third")):
        page.fill("#field-steps", str(steps))
        page.fill("#prompt", f"queue {name}")
        page.click("#go")
        until(lambda name=name: len(jobs(server, f"queue {name}")) == 1)
    page.click("#open-queue")
    until(lambda: page.locator("#waiting li").count() == 2)
    assert page.locator("#waiting li p").all_inner_texts() == ["queue second", "queue third"]
    page.get_by_label("Earlier: queue third").click()
    until(lambda: page.locator("#waiting li p").first.inner_text() == "queue third")
    page.locator("#waiting li").nth(1).drag_to(page.locator("#waiting li").nth(0))
    until(lambda: page.locator("#waiting li p").first.inner_text() == "queue second")
    page.get_by_role("button", name="Cancel all").click()
    until(lambda: page.locator("#waiting").count() == 0)
    page.get_by_label("Cancel: queue first").click()
    page.wait_for_selector("text=Nothing is waiting")


def test_the_token_is_asked_for_once(visit: Open, server: Running) -> None:
    found = visit(errors=True)
    page = found.page
    page.goto(server.url)
    page.fill("#token", "wrong-wrong-wrong-wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=not known here")
    page.fill("#token", TOKENS["bob"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt")
    (cookie,) = found.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    assert not page.evaluate("JSON.stringify(localStorage)").count(TOKENS["bob"])
    page.reload()
    page.wait_for_selector("#prompt")
    page.click("#leave")
    page.wait_for_selector("#token")


def test_nothing_typed_becomes_markup(visit: Open, server: Running) -> None:
    found = visit()
    page = found.enter()
    dialogs: list[str] = []
    page.on("dialog", lambda one: (dialogs.append(one.message), one.dismiss()))
    bad = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    found.draw(bad)
    page.reload()
    page.wait_for_selector("#thumbs button img")
    assert bad in page.locator("#about").inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert dialogs == []


def test_the_policy_lets_nothing_else_run(visit: Open, server: Running) -> None:
    page = visit(errors=True).enter()
    policy = server.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
            try {
                const script = document.createElement("script");
                script.setAttribute("src", "https://evil.example/x.js");
                document.body.append(script);
            } catch (error) {
                resolve(String(error));
            }
        })"""
    )
    assert re.search("script", blocked, re.IGNORECASE)
    for text in ("fetch('http://evil.example/')", "document.body.innerHTML = '<b>x</b>'"):
        with pytest.raises(Exception, match=r"Failed to fetch|TrustedHTML"):
            page.evaluate(f"() => {{ return {text}; }}")


def test_the_page_is_small_and_whole() -> None:
    folder = Path(__file__).parents[2] / "src/kandinsky/server/web"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 250_000
    for path in files:
        text = path.read_text("utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path
        assert path.suffix != ".html" or not re.search(r"<script(?![^>]*src=)|style=|\son\w+=", text), path
