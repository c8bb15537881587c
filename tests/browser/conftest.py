"""Debian's chromium, and the page of a server in it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import TOKENS, Running, server  # noqa: F401

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUICK = {"steps": 3, "priorSteps": 2, "open": True}
"""A form that is drawn in a moment."""


@pytest.fixture
def playwright() -> Iterator[Any]:
    """Playwright for one test: while it is open, a loop runs in this thread, and others' asyncio.run would fail."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as found:
        yield found


class Visit:
    """A page in a browser with a profile of its own, and what went wrong in it."""

    def __init__(self, context: Any, running: Running) -> None:
        self.context, self.running = context, running
        self.page = context.pages[0]
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []
        self.may_err = False
        self.outside: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._requested)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.running.url, "blob:", "data:")):
            self.outside.append(request.url)

    def enter(self, **form: object) -> Any:
        """Comes in with Ada's token, and a form that is filled in."""
        answer = self.context.request.post(
            f"{self.running.url}/api/session",
            data={"token": TOKENS["ada"]},
            headers={"origin": self.running.url},
        )
        assert answer.status == 200, answer.text()
        filled = json.dumps(json.dumps(QUICK | form))
        self.page.add_init_script(f"if (!localStorage.getItem('form')) localStorage.setItem('form', {filled})")
        self.page.goto(self.running.url)
        self.page.wait_for_selector("#go")
        return self.page

    def draw(self, prompt: str | None = None) -> Any:
        """Draws what the form says; returns when all of its images are there."""
        if prompt is not None:
            self.page.fill("#prompt", prompt)
        self.page.click("#go")
        # What is sent is on the canvas when the button can be pressed again. Progress may have come and gone by then.
        self.page.wait_for_selector("#go:enabled", state="attached")
        self.page.wait_for_selector("#progress:not(.progress)", state="attached")
        return self.page


def opened(playwright: Any, profile: Path, width: int = 1280, height: int = 800, **more: Any) -> Any:
    """A browser with a new profile."""
    return playwright.chromium.launch_persistent_context(
        profile,
        executable_path=CHROMIUM,
        args=FLAGS,
        headless=True,
        viewport={"width": width, "height": height},
        locale=more.pop("locale", "en-US"),
        **more,
    )


@pytest.fixture
def visit(playwright: Any, server: Running, tmp_path: Path) -> Iterator[Callable[..., Visit]]:  # noqa: F811
    """Opens the server's page; at the end nothing may have gone wrong in it."""
    visits: list[Visit] = []

    def open_page(*, width: int = 1280, height: int = 800, errors: bool = False, **more: Any) -> Visit:
        context = opened(playwright, tmp_path / f"profile{len(visits)}", width, height, **more)
        found = Visit(context, server)
        found.may_err = errors
        visits.append(found)
        return found

    yield open_page
    for one in visits:
        one.context.close()
        assert not one.outside, one.outside
        assert one.may_err or not one.errors, one.errors
