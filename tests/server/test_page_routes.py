"""What the page needs of the server: its files, sessions, images that are sent, one stream of events, the queue."""

import io
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, PngImagePlugin

from kandinsky.core.requests import Request
from tests.server.conftest import TOKENS, Running
from tests.server.test_jobs import QUICK, ask, ended, is_running
from tests.server.test_kills import Server, free_port


def png(colour: str = "orange", size: tuple[int, int] = (64, 64), **text: str) -> bytes:
    made, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, value in text.items():
        info.add_text(name, value)
    Image.new("RGB", size, colour).save(made, format="PNG", pnginfo=info)
    return made.getvalue()


def send(server: Running, data: bytes, owner: str = "ada", **params: str) -> dict[str, Any]:
    answer = server.send("POST", "/api/inputs", owner, content=data, params=params)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_the_page_needs_no_token_and_nothing_else_is_read(server: Running) -> None:
    page = httpx2.get(server.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert httpx2.get(f"{server.url}/web/main.js").headers["x-content-type-options"] == "nosniff"
    assert httpx2.get(server.url, headers={"if-none-match": page.headers["etag"]}).status_code == 304
    for path in ("/web/none.js", "/web/../page.py", "/web/%2e%2e/page.py", "/web//etc/passwd"):
        assert httpx2.get(f"{server.url}{path}").status_code in (401, 404), path


def test_a_session_stands_for_a_token(server: Running) -> None:
    login = httpx2.post(f"{server.url}/api/session", json={"token": TOKENS["ada"]})
    cookie = login.headers["set-cookie"]
    assert all(one in cookie for one in ("HttpOnly", "SameSite=strict", "Path=/"))
    session = {"cookie": cookie.partition(";")[0]}
    assert httpx2.get(f"{server.url}/api/session", headers=session).json() == {"owner": "ada", "token": True}
    own = {"origin": server.url, **session}
    body = {"request": QUICK}
    assert httpx2.post(f"{server.url}/api/jobs", headers=own, json=body).status_code == 202
    # What another page could send: the cookie, and no Origin or one of its own.
    for origin in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert httpx2.post(f"{server.url}/api/jobs", headers={**session, **origin}, json=body).status_code == 403
    assert httpx2.post(f"{server.url}/api/session", json={"token": "x" * 20}).status_code == 401
    kept = server.settings.data.joinpath("sessions.json").read_text()
    assert TOKENS["ada"] not in kept
    assert session["cookie"].partition("=")[2] not in kept
    assert httpx2.delete(f"{server.url}/api/session", headers=own).status_code == 204
    assert httpx2.get(f"{server.url}/api/jobs", headers=session).status_code == 401


def test_images_that_were_sent_are_named_by_their_pixels(server: Running) -> None:
    image, mask = send(server, png()), send(server, png("white"), mask="true")
    request = QUICK | {"image": {"sha256": image["sha256"]}, "mask": {"sha256": mask["sha256"]}}
    job = ended(server, ask(server, **request)["id"])
    assert (job["state"], job["request"]["image"]["size"]) == ("done", [64, 64])
    assert "path" not in json.dumps(job)
    again = ended(server, ask(server, **QUICK | {"image": {"job": job["id"]}, "strength": 0.5})["id"])
    assert again["state"] == "done"
    file = server.get(f"/api/images/{again['id']}").content
    assert str(server.settings.data).encode() not in file
    mixed = ask(server, prompt={"mix": ["a cat", {"sha256": image["sha256"]}], "weights": [0.5, 0.5]})
    assert ended(server, mixed["id"])["request"]["prompt"]["mix"][0] == "a cat"
    assert server.get(f"/api/inputs/{image['sha256']}").headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd",
        {"path": "/etc/passwd", "sha256": "0" * 64, "mode": "RGB", "size": [1, 1]},
        {"sha256": "../../jobs"},
        {"sha256": "0" * 64},
        {"job": "0" * 32},
        {"sha256": 5},
        {},
    ],
)
def test_other_images_are_refused(server: Running, image: object) -> None:
    answer = server.send("POST", "/api/jobs", json={"request": QUICK | {"image": image}})
    assert answer.status_code in (400, 404), answer.text


def test_what_one_owner_sends_no_other_can_use(server: Running) -> None:
    image = send(server, png("navy"))
    job = ended(server, ask(server)["id"])
    for given in ({"sha256": image["sha256"]}, {"job": job["id"]}):
        body = {"request": QUICK | {"image": given}}
        assert server.send("POST", "/api/jobs", "bob", json=body).status_code == 404
    assert server.get(f"/api/inputs/{image['sha256']}", "bob").status_code == 404
    assert server.get(f"/api/images/{job['id']}/small", "bob").status_code == 404
    assert server.send("PUT", "/api/queue", "bob", json={"order": [job["id"]]}).status_code == 404


def test_small_images_and_what_a_file_says(server: Running) -> None:
    job = ended(server, ask(server, prompt="a small fox")["id"])
    small = server.get(f"/api/images/{job['id']}/small")
    assert small.headers["content-type"] == "image/webp"
    data = server.get(f"/api/images/{job['id']}").content
    made = server.send("POST", "/api/metadata", content=data).json()
    assert (made["tool"], made["request"]["prompt"], made["request"]["seed"]) == ("kandinsky", "a small fox", 1)
    other = png(parameters="a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5")
    foreign = server.send("POST", "/api/metadata", content=other).json()
    assert (foreign["request"]["prompt"], foreign["request"]["seed"]) == ("a cat", 5)
    assert server.send("POST", "/api/metadata", content=png()).json()["tool"] is None
    assert server.send("POST", "/api/metadata", content=b"x").status_code == 400
    assert server.send("DELETE", f"/api/jobs/{job['id']}").status_code == 204
    assert not list(server.settings.data.joinpath("thumbnails").glob(f"{job['id']}*"))


def test_one_stream_tells_of_all_jobs_and_of_no_other_owners(server: Running) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    listening = threading.Event()

    def listen() -> None:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}
        with httpx2.stream("GET", f"{server.url}/api/events", headers=headers, timeout=120) as answer:
            kind = ""
            for line in answer.iter_lines():
                listening.set()
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    heard.append((kind, json.loads(line.removeprefix("data: "))))
                    if kind == "done" and heard[-1][1]["request"]["prompt"] == "the last of it":
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    assert listening.wait(60)
    other = ask(server, "bob", prompt="not for ada")
    first = ask(server, steps=6, previews=2)
    last = ask(server, prompt="the last of it")
    thread.join(120)
    kinds = [kind for kind, said in heard if said["id"] == first["id"]]
    assert (kinds[0], kinds[-1], kinds.count("preview")) == ("queued", "done", 2)
    assert any("eta" in said for kind, said in heard if kind == "progress")
    assert {said["id"] for _, said in heard} == {first["id"], last["id"]} - {other["id"]}


def test_the_schema_of_a_request_is_its_declaration(server: Running) -> None:
    document = server.get("/openapi.json").json()
    fields = document["components"]["schemas"]["NewJobs"]["properties"]["request"]["properties"]
    assert set(fields) == set(Request.model_fields)
    assert '"$defs"' not in json.dumps(document)
    assert fields["mask_blur"]["anyOf"][0]["maximum"] == 512


def test_the_queue_is_put_into_another_order(server: Running) -> None:
    running = ask(server, steps=900)
    is_running(server, running["id"])
    names = [ask(server, steps=800 + i)["id"] for i in range(3)]
    order = [names[2], names[0], names[1]]
    shown = server.send("PUT", "/api/queue", json={"order": order}).json()["jobs"]
    assert [one["id"] for one in shown if one["state"] == "queued"] == order
    assert [server.get(f"/api/jobs/{one}").json()["before"] for one in order] == [0, 1, 2]
    for name in (*names, running["id"]):
        server.send("POST", f"/api/jobs/{name}/cancel")
        ended(server, name)


def test_adapters_act_for_the_jobs_that_ask_for_them(server: Running) -> None:
    options = server.get("/api/options").json()
    assert options["lora"] == {"few-step": 0.0}
    assert options["takes"]["mix"]
    answers = [
        server.send("POST", "/api/jobs", json={"request": {"prompt": "a fox", "seed": 1, "steps": 2}, "lora": lora})
        for lora in ({"few-step": 1}, {"few-step": 0.5}, None, {"few-step": 1})
    ]
    done = [ended(server, one.json()["jobs"][0]["id"]) for one in answers]
    assert [one["state"] for one in done] == ["done"] * 4
    images = [server.get(f"/api/images/{one['id']}").content for one in done]
    pixels = [Image.open(io.BytesIO(one)).tobytes() for one in images]
    assert len(set(pixels)) == 3
    assert pixels[0] == pixels[3]
    made = [server.send("POST", "/api/metadata", content=one).json()["lora"] for one in images]
    assert made == [{"few-step": 1.0}, {"few-step": 0.5}, {}, {"few-step": 1.0}]
    bad = server.send("POST", "/api/jobs", json={"request": {"prompt": "a"}, "lora": {"../../secret": 1}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "lora")


def test_a_page_that_listens_does_not_hold_up_the_end(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", free_port())
    try:
        server.wait("/readyz")
        with httpx2.stream("GET", f"{server.url}/api/events", timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("retry")
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert list(lines)[-1:] in ([], [""])
            assert time.monotonic() - began < 5
        assert server.process.wait(60) in (0, -signal.SIGTERM)
    finally:
        server.kill()
