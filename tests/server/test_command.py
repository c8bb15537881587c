"""`kandinsky serve` as a person starts it: what it writes, and how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from tests.server.instant import free_port

TOKEN = "a-token-of-sixteen-letters-and-more"
PROMPT = "a prompt that nobody is to read"


def test_the_log_is_json_and_sigterm_ends_what_has_begun(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KANDINSKY_TOKEN": f"ada={TOKEN}"}
    flags = ["--data", str(tmp_path / "data"), "--port", str(port), "--device", "cpu", "--log", "json", "--drain", "60"]
    command = [sys.executable, "-m", "kandinsky", "serve", *flags]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {TOKEN}"}
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        body = {"prompt": PROMPT, "steps": 30, "prior_steps": 1, "stream": True, "partial_images": 1}
        with httpx2.stream("POST", f"{url}/v1/images/generations", json=body, headers=headers, timeout=240) as answer:
            lines = answer.iter_lines()
            assert "partial_image" in next(lines)
            process.send_signal(signal.SIGTERM)
            assert "image_generation.completed" in "".join(lines)
        assert process.wait(120) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert TOKEN not in "".join(said)
    assert PROMPT not in "".join(said)
    found = [json.loads(line) for line in said if line.startswith("{")]
    (drawn,) = [one for one in found if one.get("route") == "/v1/images/generations"]
    assert (drawn["status"], drawn["owner"], drawn["event"]) == (200, "ada", "answered")
    others = [line for line in said if not line.startswith("{")]
    assert len(others) <= 1, "one line says where it is, and all others are JSON"
