"""Who comes in: rows 6, 12, 19 and 21 of what went wrong elsewhere."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from kandinsky.core.errors import RequestError
from kandinsky.server import settings as server_settings
from kandinsky.server.settings import ServerSettings, owners_of
from tests.server.instant import TOKENS, Served, among_canaries, png, routes, served

JOB = {"request": {"prompt": "a fox", "seed": 1}}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with among_canaries(tmp_path_factory.mktemp("around")) as found:
        yield found


def done(quick: Served, owner: str = "ada") -> str:
    name: str = quick.send("POST", "/api/jobs", owner, json=JOB).json()["jobs"][0]["id"]
    while quick.get(f"/api/jobs/{name}", owner).json()["state"] != "done":
        time.sleep(0.02)
    return name


# Row 6: what installs itself, and who listens to whom.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_row_06_other_machines_need_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no token"):
        ServerSettings(tmp_path, host=host)
    assert ServerSettings(tmp_path, host=host, owners=owners_of(["a" * 16])).host == host


def test_row_06_the_command_refuses_it_too(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("KANDINSKY_TOKEN", None)
    command = [sys.executable, "-m", "kandinsky", "serve", "--host", "0.0.0.0", "--data", str(tmp_path / "data")]
    for more in ([], ["--token", "short"], ["--token", "a-token-with\r\nset-cookie: x=1"]):
        ended = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_row_06_no_route_installs_anything(quick: Served) -> None:
    """Whoever adds a route says so here, and what it lets whom do."""
    found = {path for _, path in routes(quick)}
    for word in ("install", "plugin", "custom", "node", "extension", "update", "exec", "upload-model", "download"):
        assert not [path for path in found if word in path.lower()]
    assert all(path.startswith(("/v1/", "/api/", "/sdapi/v1/", "/healthz", "/readyz", "/metrics")) for path in found)


# Row 12: pages of other origins.

UNSAFE = ("POST", "PATCH", "PUT", "DELETE")


def test_row_12_hosts_and_origins_for_every_route(quick: Served) -> None:
    name = done(quick)
    for method, route in routes(quick):
        path = route.replace("{name}", name)
        for host in ("evil.example", f"evil.example:{quick.port}", "127.0.0.1.evil.example", "169.254.169.254"):
            assert quick.send(method, path, headers={"host": host}).status_code == 403, (method, path)
        if method in UNSAFE:
            for headers in (
                {"origin": "http://evil.example"},
                {"origin": "null"},
                {"origin": f"http://127.0.0.1:{quick.port + 1}"},
                {"sec-fetch-site": "cross-site"},
            ):
                answer = quick.send(method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed"), path
    assert quick.get(f"/api/jobs/{name}").json()["state"] == "done"


def test_row_12_nobody_is_given_leave_by_cors(quick: Served) -> None:
    for method in ("GET", "OPTIONS", "POST"):
        asked = {"origin": "http://evil.example", "access-control-request-method": "DELETE"}
        answer = quick.send(method, "/api/jobs", headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_row_12_a_form_of_another_page_is_no_request(quick: Served) -> None:
    """What a page may send without asking first: the three kinds of forms, as a body that looks like JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = quick.send("POST", "/api/jobs", content=json.dumps(JOB).encode(), headers={"content-type": kind})
        assert answer.status_code in (400, 415, 422), kind


# Row 19: tokens.


def test_row_19_tokens_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = "a-token-of-sixteen-letters"
    made = ServerSettings(tmp_path, owners=owners_of([f"ada={token}", "bob=another-token-of-letters"]))
    assert token not in repr(made)
    compared: list[tuple[str, str]] = []
    real = server_settings.hmac.compare_digest
    monkeypatch.setattr(
        server_settings.hmac,
        "compare_digest",
        lambda a, b: compared.append((a, b)) or real(a, b),  # type: ignore[func-returns-value]
    )
    for said in (token, token[:-1] + "x", "x", "", None, "ä" * 20, "\udcff"):
        compared.clear()
        assert made.owner_of(said) == ("ada" if said == token else None)
        # Every known token is looked at, whichever is right, and hashes alone are.
        assert len(compared) == 2
        assert all(len(one) == 64 for pair in compared for one in pair)


def test_row_19_guesses_are_slowed_and_their_right_neighbours_are_not(tmp_path: Path) -> None:
    with served(tmp_path) as small:
        codes = [small.get("/v1/models", f"wrong-{i}").status_code for i in range(30)]
        assert codes == [401] * 20 + [429] * 10
        answer = small.get("/v1/models", "wrong")
        assert 1 <= int(answer.headers["retry-after"]) <= 61
        assert answer.json()["error"]["code"] == "too_many_guesses"
        assert small.get("/v1/models", "ada").status_code == 200
        assert small.get("/v1/models", None).status_code == 401


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Basic YWRhOmFkYQ==", "bearer x", "Bearer a b", "Token " + TOKENS["ada"], TOKENS["ada"]],
)
def test_row_19_what_is_no_token(quick: Served, value: str) -> None:
    answer = httpx2.get(f"{quick.url}/v1/models", headers={"authorization": value})
    assert answer.status_code in (401, 429)


def test_row_19_a_token_in_an_address_is_none(quick: Served) -> None:
    for query in (f"?token={TOKENS['ada']}", f"?api_key={TOKENS['ada']}", f"?access_token={TOKENS['ada']}"):
        assert quick.get(f"/v1/models{query}", None).status_code == 401


# Row 21: what belongs to others.


def test_row_21_nothing_of_others_is_seen_or_changed(quick: Served) -> None:
    """Every route with a name in it, with the names of another owner's job, file and batch."""
    job = done(quick)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a"}}
    content = {"file": ("a", json.dumps(line).encode())}
    file = quick.send("POST", "/v1/files", data={"purpose": "batch"}, files=content).json()["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    batch = quick.send("POST", "/v1/batches", json=asked).json()["id"]
    image = quick.send("POST", "/v1/files", data={"purpose": "vision"}, files={"file": ("a", png())}).json()["id"]
    before = quick.get(f"/api/jobs/{job}").json()
    known = {"/v1/models/{name}"}
    tried = 0
    for method, route in routes(quick):
        if "{" not in route or route in known:
            continue
        for name in (job, file, batch, image):
            path = route.replace("{name}", name)
            body = {"priority": 5, "favourite": True} if method in ("PATCH", "POST", "PUT") else None
            answer = quick.send(method, path, "bob", json=body)
            assert answer.status_code in (400, 404), (method, path, answer.text)
            tried += 1
    assert tried >= 40
    edit = {"prompt": "a", "images": [{"file_id": image}]}
    assert quick.send("POST", "/v1/images/edits", "bob", json=edit).status_code == 404
    assert quick.send("POST", "/v1/images/edits", "ada", json=edit).status_code == 200
    for path in ("/api/jobs", "/v1/files", "/v1/batches"):
        assert job not in quick.get(path, "bob").text
        assert file not in quick.get(path, "bob").text
        assert batch not in quick.get(path, "bob").text
    assert quick.send("POST", "/sdapi/v1/interrupt", "bob").status_code == 200
    assert quick.get(f"/api/jobs/{job}").json() == before
    assert len(job) == 32, "names have 128 bits"


def test_row_21_every_route_asks_for_a_token(quick: Served) -> None:
    # The page asks whether there are tokens before it has one; who has no session ends none.
    free = {("GET", "/healthz"): 200, ("GET", "/readyz"): 200, ("GET", "/api/session"): 200}
    free |= {("DELETE", "/api/session"): 204, ("POST", "/api/session"): 400}
    for method, route in routes(quick):
        answer = quick.send(method, route.replace("{name}", "0" * 32), None)
        assert answer.status_code == free.get((method, route), 401), (method, route)
    assert quick.get("/api/session", None).json() == {"owner": None, "token": True}
