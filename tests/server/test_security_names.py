"""What names reach: row 7 of what went wrong elsewhere."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.server.instant import CANARY, Served, among_canaries

JOB = {"request": {"prompt": "a fox", "seed": 1}}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with among_canaries(tmp_path_factory.mktemp("around")) as found:
        yield found


# Row 7: names that lead elsewhere.

NAMES = [
    "../canary", "..%2Fcanary", "%2e%2e%2fcanary", "..%5Ccanary", "....//canary", "%252e%252e%252fcanary", "canary",
    "/etc/passwd", "C:\\canary", "\\\\host\\share", "//host/share", "file:///etc/passwd", "canary%00.png", "CON", "NUL",
    "..%c0%afcanary", "．．/canary", "‥/canary", ".%2e/canary", "canary.png", "a" * 5000, "file-" + "a" * 32, "b" * 32,
    "file-../../canary", "batch_../canary", "%", "%zz", "*", "?", "~root", "$HOME", "`id`", "'; DROP TABLE jobs; --",
]  # fmt: skip
PLACES = [
    "/api/jobs/{}", "/api/jobs/{}/events", "/api/images/{}", "/v1/files/{}", "/v1/files/{}/content", "/v1/batches/{}",
    "/v1/models/{}",
]  # fmt: skip


def untouched(quick: Served) -> None:
    around = quick.settings.data.parent
    assert (around / "canary").read_text() == CANARY
    assert {path.name for path in around.iterdir()} == {"canary", "canary.png", "canary.json", "canary.data", "data"}


@pytest.mark.parametrize("place", PLACES)
def test_row_07_names_reach_no_other_file(quick: Served, place: str) -> None:
    for name in NAMES:
        sent = quick.raw(quick.head("GET", place.format(name.replace(" ", "%20"))).encode("utf-8"), 10)
        assert CANARY.encode() not in sent
        assert b"root:" not in sent
        assert sent.split(b" ", 2)[1:2] in ([b"404"], [b"400"], [b"401"], [b"405"], [b"307"]), (name, sent[:200])
    untouched(quick)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(min_size=1, max_size=60), st.sampled_from(["GET", "DELETE", "POST", "PATCH"]))
@example("../../../canary", "DELETE")
@example("file-" + "0" * 32 + "/../../canary", "DELETE")
def test_row_07_no_text_is_a_way_out(quick: Served, name: str, method: str) -> None:
    for place in ("/v1/files/", "/api/jobs/", "/v1/batches/"):
        path = place + httpx2.URL("http://a/").copy_with(params={"a": name}).query.decode()[2:]
        answer = quick.send(method, path, json={} if method in ("POST", "PATCH") else None)
        assert answer.status_code in (400, 404, 405, 307), (path, answer.text)
        assert CANARY not in answer.text
    untouched(quick)


@pytest.mark.parametrize(
    "name", ["../../canary", "/etc/cron.d/x", "a\0b", "..\\x", "con.png", "x" * 3000, "\u202egnp.exe", ""]
)
def test_row_07_names_of_uploads_name_no_file(quick: Served, name: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    purpose = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = quick.send("POST", "/v1/files", content=purpose + head + b"1\r\n--x--\r\n", headers=kind)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert answer.json()["filename"] == "image"
    untouched(quick)


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "/etc/passwd"},
        {"image": {"path": "/etc/passwd"}},
        {"image": {"path": "../canary.png", "sha256": "0" * 64}},
        {"mask": "canary"},
        {"hint": "canary"},
        {"lora": "../canary"},
        {"lora": {"/etc/passwd": 1.0}},
        {"prompt": {"path": "/etc/passwd"}},
        {"prompt": {"mix": [{"path": "/etc/passwd", "sha256": "0" * 64}], "weights": [1]}},
        {"model": "/etc"},
    ],
)
def test_row_07_requests_name_no_files(quick: Served, fields: dict[str, Any]) -> None:
    for body in ({"request": JOB["request"] | fields}, JOB | fields):
        answer = quick.send("POST", "/api/jobs", json=body)
        assert answer.status_code in (400, 422), answer.text
        assert CANARY not in answer.text
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img"):
        answer = quick.send("POST", path, json={"prompt": "a"} | fields)
        assert answer.status_code in (400, 404, 422), answer.text
    untouched(quick)
