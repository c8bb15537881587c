"""What pages of others can do to a server on the loopback, and texts to its page: rows 11 and 12, in chromium.

The server asks for no token, as on one's own machine: then nothing but the host and the origin protect it.
"""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import CHROMIUM, FLAGS, playwright  # noqa: F401
from tests.server.instant import Served, png, served
from tests.server.test_security_leaks import PAYLOADS

pytestmark = pytest.mark.browser
ASK = """
async ([address, methods]) => {
    const found = [];
    const body = JSON.stringify({request: {prompt: "from afar", seed: 1}});
    for (const method of methods) {
        for (const mode of ["cors", "no-cors", "same-origin"]) {
            for (const kind of ["application/json", "text/plain"]) {
                const given = {method, mode, headers: {"content-type": kind}, credentials: "include"};
                if (method !== "GET" && method !== "HEAD") given.body = body;
                try {
                    const answer = await fetch(address, given);
                    found.push([method, mode, answer.type, answer.status, (await answer.text()).slice(0, 200)]);
                } catch (error) {
                    found.push([method, mode, "error", 0, ""]);
                }
            }
        }
    }
    return found;
}
"""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class Evil(BaseHTTPRequestHandler):
    """Somebody's page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data"), owners=None) as found:
        yield found


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(playwright: Any, tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    """A page in a browser for which two names of somebody else mean this machine."""
    with opened(playwright, tmp_path) as found:
        yield found


@contextlib.contextmanager
def opened(playwright: Any, tmp_path: Path, **given: Any) -> Iterator[Any]:  # noqa: F811
    names = "--host-resolver-rules=MAP evil.example 127.0.0.1,MAP rebound.example 127.0.0.1"
    context = playwright.chromium.launch_persistent_context(
        str(tmp_path / "profile"), executable_path=CHROMIUM, args=[*FLAGS, names], **given
    )
    try:
        yield context.pages[0]
    finally:
        context.close()


def jobs(open_server: Served) -> list[Any]:
    found: list[Any] = open_server.get("/api/jobs", None).json()["jobs"]
    return found


def test_row_12_a_page_of_another_origin_changes_and_reads_nothing(
    page: Any, open_server: Served, elsewhere: int
) -> None:
    before = [job["id"] for job in jobs(open_server)]
    page.goto(f"http://evil.example:{elsewhere}/")
    for path in ("/api/jobs", "/v1/images/generations", "/api/queue", "/sdapi/v1/interrupt", "/v1/models"):
        for _, _, kind, status, text in page.evaluate(ASK, [f"{open_server.url}{path}", METHODS]):
            # Opaque answers cannot be read; what they asked for must not have happened.
            assert (kind, status, text) in (("error", 0, ""), ("opaque", 0, "")), path
    form = f'<form method="post" enctype="text/plain" action="{open_server.url}/api/jobs">'
    field = """<input name='{"request": {"prompt": "from a form", "a' value='": 1}}'></form>"""
    page.evaluate("(text) => { document.body.innerHTML = text; document.forms[0].submit(); }", form + field)
    page.wait_for_url("**/api/jobs")
    page.wait_for_load_state()
    assert "origin_not_allowed" in page.content()
    assert [job["id"] for job in jobs(open_server)] == before


def test_row_12_a_name_that_becomes_this_machine_opens_nothing(
    playwright: Any,  # noqa: F811
    tmp_path: Path,
    open_server: Served,
) -> None:
    """DNS rebinding: a page of somebody's name, which means this server by now, so that origins agree.

    What such a page brought from its own server is put into it here; the policy that ours sent with its refusal would
    stop even that, so that the browser is told to forget it.
    """
    origin = f"http://rebound.example:{open_server.port}"
    before = [job["id"] for job in jobs(open_server)]
    with opened(playwright, tmp_path, bypass_csp=True) as page:
        answer = page.goto(f"{origin}/")
        assert answer.status == 403
        for path in ("/api/jobs", "/v1/images/generations", "/healthz", "/web/index.html", "/openapi.json"):
            for method, mode, kind, status, text in page.evaluate(ASK, [f"{origin}{path}", METHODS]):
                if mode == "no-cors" and method in ("PUT", "PATCH", "DELETE"):
                    continue  # no browser sends these
                assert (kind, status) == ("basic", 403), (method, mode, path)
                assert method == "HEAD" or "host_not_allowed" in text
    assert [job["id"] for job in jobs(open_server)] == before


def test_row_12_no_page_shows_this_one_in_a_frame(page: Any, open_server: Served, elsewhere: int) -> None:
    page.goto(f"http://evil.example:{elsewhere}/")
    page.evaluate("(url) => { document.body.innerHTML = `<iframe src='${url}/'></iframe>`; }", open_server.url)
    page.wait_for_timeout(1000)
    (frame,) = [one for one in page.frames if one.parent_frame is not None]
    assert frame.locator("#go").count() == 0


def test_row_11_texts_of_others_are_no_markup(page: Any, open_server: Served) -> None:
    dialogs: list[str] = []
    outside: list[str] = []
    page.on("dialog", lambda one: (dialogs.append(one.message), one.dismiss()))
    page.on(
        "request",
        lambda one: None if one.url.startswith((open_server.url, "data:", "blob:")) else outside.append(one.url),
    )
    names = []
    for text in PAYLOADS:
        answer = open_server.send("POST", "/api/jobs", None, json={"request": {"prompt": text, "seed": 1}})
        names.append(answer.json()["jobs"][0]["id"])
    open_server.send(
        "POST", "/v1/files", None, data={"purpose": "user_data"}, files={"file": ("<svg onload=alert(1)>", png())}
    )
    page.goto(f"{open_server.url}/")
    page.wait_for_selector("#go")
    page.wait_for_timeout(1500)
    assert page.evaluate("document.scripts.length") < 20
    for path in (
        f"/api/jobs/{names[0]}",
        "/api/jobs?text=%3Cscript%3E",
        "/nothing/<img src=x onerror=alert(1)>",
        "/openapi.json",
    ):
        page.goto(f"{open_server.url}{path}")
        page.wait_for_timeout(200)
    assert dialogs == []
    assert outside == []
