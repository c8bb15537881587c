"""Jobs over HTTP, and who may see and do what."""

import contextlib
import io
import json
import socket
import time
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.server.conftest import TOKENS, Running

QUICK = {"prompt": "a fox", "steps": 2, "prior_steps": 1, "seed": 1}


def ask(server: Running, owner: str = "ada", **request: Any) -> dict[str, Any]:
    more = {name: request.pop(name) for name in ("priority", "previews") if name in request}
    answer = server.send("POST", "/api/jobs", owner, json={"request": QUICK | request, **more})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()["jobs"][0]
    return found


def ended(server: Running, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (job := server.get(f"/api/jobs/{name}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job  # type: ignore[no-any-return]


def is_running(server: Running, name: str) -> None:
    """Waits until a job is being drawn."""
    deadline = time.monotonic() + 60
    while (state := server.get(f"/api/jobs/{name}").json()["state"]) != "running":
        assert (state, time.monotonic() < deadline) == ("queued", True)
        time.sleep(0.02)


def events(server: Running, name: str) -> list[tuple[str, dict[str, Any]]]:
    return events_in(server.get(f"/api/jobs/{name}/events").text)


def events_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    pairs = (block.splitlines() for block in text.split("\n\n") if block)
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in pairs]


def test_a_job_is_drawn_and_found_again(server: Running) -> None:
    job = ask(server, prompt="a Fox in a hat")
    done = ended(server, job["id"])
    assert (done["state"], done["seed"], done["size"], done["error"]) == ("done", 1, [64, 64], None)
    assert server.get(done["image"].removeprefix(server.url)).headers["content-type"] == "image/png"
    assert [one["id"] for one in server.get("/api/jobs?text=fox in").json()["jobs"]] == [job["id"]]
    assert server.get("/api/jobs?text=horse").json() == {"jobs": [], "next": None}
    assert server.send("PATCH", f"/api/jobs/{job['id']}", json={"favourite": True}).json()["favourite"]
    assert [one["id"] for one in server.get("/api/jobs?favourite=true").json()["jobs"]] == [job["id"]]
    assert server.send("DELETE", f"/api/jobs/{job['id']}").status_code == 204
    assert server.get(f"/api/jobs/{job['id']}").status_code == 404
    assert not list(server.settings.data.joinpath("images").glob(f"{job['id']}*"))


def test_events_tell_steps_and_previews(server: Running) -> None:
    # It waits behind another until its stream is open: nothing tells again what nobody has heard.
    before, job = ask(server, steps=900), ask(server, steps=6, previews=2)
    headers = {"authorization": f"Bearer {TOKENS['ada']}"}
    with httpx2.stream("GET", f"{server.url}/api/jobs/{job['id']}/events", headers=headers, timeout=120) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        server.send("POST", f"/api/jobs/{before['id']}/cancel")
        found = events_in("\n".join([first, *lines]))
    kinds = [kind for kind, _ in found]
    assert (kinds[0], kinds[-2:]) == ("state", ["done", "job"])
    steps = [said["step"] for kind, said in found if kind == "progress" and said.get("stage") == "decoder"]
    assert (steps[0], steps[-1]) == (1, 6)
    assert steps == sorted(set(steps)), "of quick steps some are told"
    assert kinds.count("preview") == 2


@pytest.mark.parametrize("sent_as_mask", [False, True])
def test_a_job_is_repeated_by_what_it_says_of_its_images(server: Running, sent_as_mask: bool) -> None:
    """Whether its mask was sent as one or as an image."""
    made = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 255, 255)).save(made, "PNG")
    png = {"content": made.getvalue(), "headers": {"content-type": "image/png"}}
    image = server.send("POST", "/api/inputs", **png).json()["sha256"]
    mask = server.send("POST", f"/api/inputs?mask={sent_as_mask}", **png).json()["sha256"]
    assert (image == mask) is not sent_as_mask
    first = ended(server, ask(server, image={"sha256": image}, mask={"sha256": mask})["id"])
    told = {name: {"sha256": first["request"][name]["sha256"]} for name in ("image", "mask")}
    for one in told.values():
        assert server.get(f"/api/inputs/{one['sha256']}").status_code == 200
    again = ended(server, ask(server, **told)["id"])
    assert (again["state"], again["request"]) == ("done", first["request"])
    crossed = ended(server, ask(server, image=told["mask"], mask=told["image"])["id"])
    assert server.get(f"/api/inputs/{crossed['request']['image']['sha256']}").status_code == 200


def test_cancelling_acts_within_a_step(server: Running) -> None:
    job = ask(server, steps=900)
    is_running(server, job["id"])
    server.send("POST", f"/api/jobs/{job['id']}/cancel")
    assert ended(server, job["id"])["state"] == "cancelled"
    assert events(server, job["id"])[-1][1]["state"] == "cancelled"


def test_a_client_that_goes_away_takes_its_work_with_it(server: Running) -> None:
    body = json.dumps({"prompt": "gone away", "steps": 900, "prior_steps": 1})
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKENS['ada']}\r\n"
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        deadline = time.monotonic() + 60
        while not (found := server.get("/api/jobs?text=gone away").json()["jobs"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        is_running(server, found[0]["id"])
    assert ended(server, found[0]["id"])["state"] == "cancelled"


def test_owners_see_their_own_alone(server: Running) -> None:
    job = ask(server)
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/events"),
    ):
        given = {"json": {}} if method == "PATCH" else {}
        assert server.send(method, f"/api/jobs/{job['id']}{path}", "bob", **given).status_code == 404, method
    assert job["id"] not in [one["id"] for one in server.get("/api/jobs", "bob").json()["jobs"]]
    assert server.get(f"/api/images/{job['id']}", "bob").status_code == 404
    ended(server, job["id"])


def test_pages_of_jobs(server: Running) -> None:
    names = [ask(server, prompt=f"page {i}")["id"] for i in range(5)]
    for name in names:
        ended(server, name)
    first = server.get("/api/jobs?text=page&limit=2").json()
    second = server.get(f"/api/jobs?text=page&limit=2&before={first['next']}").json()
    last = server.get(f"/api/jobs?text=page&limit=2&before={second['next']}").json()
    assert [one["id"] for page in (first, second, last) for one in page["jobs"]] == names[::-1]
    assert last["next"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "request"),
        ({"request": {}}, "request"),
        ({"request": {"prompt": "a", "image": "/etc/passwd"}}, "request"),
        ({"request": {"prompt": "a", "steps": "x"}}, "request"),
        ({"request": {"prompt": "a", "colour": None}}, "request"),
        ({"request": {"prompt": "a"}, "priority": 99}, "priority"),
        ({"request": {"prompt": "a"}, "colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_asked_names_its_field(server: Running, body: dict[str, Any], param: str) -> None:
    answer = server.send("POST", "/api/jobs", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_full_queue_says_when_to_come_again(server: Running) -> None:
    answer = server.send("POST", "/api/jobs", json={"request": QUICK | {"count": 41}})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_other_hosts_are_refused(server: Running, host: str) -> None:
    assert server.get("/api/jobs", headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_other_origins_change_nothing(server: Running, method: str) -> None:
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert server.send(method, "/api/jobs", headers=headers, json={}).status_code == 403


def test_bodies_have_an_end(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKENS['ada']}\r\n"
        connection.sendall(f"{head}Content-Length: {10**9}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")

    def endless() -> Any:
        for _ in range(70):
            yield b"x" * 2**20

    with contextlib.suppress(httpx2.TransportError):  # or it is closed in the middle of the body
        json = {"content-type": "application/json"}
        assert server.send("POST", "/v1/images/generations", content=endless(), headers=json).status_code == 413


def test_answers_say_nothing_of_this_machine(server: Running) -> None:
    texts = [
        server.get("/api/jobs").text,
        server.get("/nothing").text,
        server.send("POST", "/v1/images/generations", content=b"{").text,
        server.get("/api/jobs/" + "../" * 8 + "etc/passwd").text,
        server.get("/api/images/..%2F..%2Fjobs.db").text,
    ]
    for text in texts:
        assert str(server.settings.data) not in text
        assert "Traceback" not in text
    assert server.get("/api/images/..%2F..%2Fjobs.db").status_code == 404


def test_health_needs_no_token_and_all_else_does(server: Running) -> None:
    assert httpx2.get(f"{server.url}/healthz").json()["status"] == "ok"
    for path in ("/api/jobs", "/v1/models", "/metrics", "/openapi.json", "/nothing"):
        assert httpx2.get(f"{server.url}{path}").status_code == 401
    assert 'kandinsky_jobs{state="queued"}' in server.get("/metrics").text
