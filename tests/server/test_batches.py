"""Files and batches of the OpenAI API, and what tells of their end."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.server.webhooks import Webhook
from tests.server.conftest import TOKENS, Running

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four b").decode()
BODY = {"prompt": "a fox", "steps": 2, "prior_steps": 1, "seed": 3}


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKENS["ada"], max_retries=0)


@pytest.fixture(scope="module")
def other(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKENS["bob"], max_retries=0)


def line(custom: str, **body: Any) -> str:
    return json.dumps({"custom_id": custom, "method": "POST", "url": "/v1/images/generations", "body": BODY | body})


def ended(client: openai.OpenAI, name: str) -> Any:
    deadline = time.monotonic() + 240
    while (batch := client.batches.retrieve(name)).status not in ("completed", "failed", "cancelled"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return batch


def begun(client: openai.OpenAI, *lines: str) -> Any:
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h", metadata={"for": "a test"}
    )


def test_a_file_of_requests_becomes_a_file_of_answers(client: openai.OpenAI) -> None:
    batch = ended(client, begun(client, line("one"), line("two", n=2), line("bad", steps=0), "none", "").id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
    assert batch.metadata == {"for": "a test"}
    answers = [json.loads(one) for one in client.files.content(batch.output_file_id).text.splitlines()]
    assert {one["custom_id"]: len(one["response"]["body"]["data"]) for one in answers} == {"one": 1, "two": 2}
    (datum,) = answers[0]["response"]["body"]["data"]
    assert Image.open(io.BytesIO(base64.b64decode(datum["b64_json"]))).size == (64, 64)
    errors = [json.loads(one) for one in client.files.content(batch.error_file_id).text.splitlines()]
    assert [(one["custom_id"], one["response"]["status_code"]) for one in errors] == [("bad", 400), (None, 400)]
    assert errors[0]["response"]["body"]["error"]["param"] == "steps"
    assert batch.id in [one.id for one in client.batches.list()]


def test_a_batch_can_be_cancelled(client: openai.OpenAI) -> None:
    batch = begun(client, *(line(str(i), seed=i, steps=40) for i in range(200)))
    client.batches.cancel(batch.id)
    found = ended(client, batch.id)
    assert found.status == "cancelled"
    assert found.request_counts.completed < 200


def test_files_are_their_owners(client: openai.OpenAI, other: openai.OpenAI) -> None:
    file = client.files.create(file=("in.jsonl", b"x"), purpose="batch")
    assert client.files.retrieve(file.id).bytes == 1
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    with pytest.raises(openai.NotFoundError):
        other.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    assert client.files.delete(file.id).deleted
    assert file.id not in [one.id for one in client.files.list()]


@pytest.mark.parametrize("name", ["../jobs", "file-", "file-" + "g" * 32, "%2e%2e%2fjobs.db", "file-" + "0" * 32])
def test_ids_that_are_none(server: Running, name: str) -> None:
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/batches/{name}"):
        assert server.get(path).status_code == 404


@pytest.mark.parametrize(
    "given",
    [{"endpoint": "/v1/chat/completions"}, {"completion_window": "1h"}, {"colour": "red"}, {"input_file_id": "x"}],
)
def test_batches_that_cannot_be(server: Running, given: dict[str, str]) -> None:
    asked = {"input_file_id": "file-" + "0" * 32, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    assert server.send("POST", "/v1/batches", json=asked | given).status_code in (400, 404)


class Heard(BaseHTTPRequestHandler):
    """A program that is told, and that fails once."""

    told: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.told.append((dict(self.headers), body))
        self.send_response(500 if len(self.told) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[str]:
    Heard.told = []
    server = HTTPServer(("127.0.0.1", 0), Heard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_client_verifies_what_it_is_told(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky.server.webhooks.PAUSES", (0.0,))
    Webhook(listening, SECRET).tell("batch.completed", {"id": "batch_1"})
    assert len(Heard.told) == 2
    headers, body = Heard.told[1]
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id) == ("batch.completed", "batch_1")  # type: ignore[union-attr]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers)


def test_webhooks_that_are_none() -> None:
    with pytest.raises(RequestError, match="no http address"):
        Webhook("file:///etc/passwd", SECRET)
    with pytest.raises(RequestError, match="no base64"):
        Webhook("https://a.example", "whsec_?")
