"""What hands do on the page, and what came of it."""

import io
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from tests.browser.conftest import Visit
from tests.server.conftest import Running

Open = Callable[..., Visit]
LOADED = "#easel[aria-busy=false]"
"""The easel with its picture: before that, hands paint nothing."""


def jobs(server: Running, text: str = "") -> list[dict[str, Any]]:
    return server.get("/api/jobs", params={"text": text}).json()["jobs"]  # type: ignore[no-any-return]


def until(true: Callable[[], bool]) -> None:
    """Waits in Python: the page's policy lets no text become a script, also not a condition of a test."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it has not become true"
        time.sleep(0.05)


def picture(colour: str = "orange", size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, format="PNG")
    return {"name": "picture.png", "mimeType": "image/png", "buffer": made.getvalue()}


def choose(page: Any, button: str, file: dict[str, Any]) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(file)


def drop(page: Any, data: bytes) -> None:
    """Drops a file onto the page, as a hand would."""
    page.evaluate(
        """(bytes) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const event = new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
                document.getElementById("stage").dispatchEvent(event);
            }
        }""",
        list(data),
    )
