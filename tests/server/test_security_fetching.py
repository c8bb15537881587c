"""What is fetched from elsewhere and told to others: rows 8 and 15 of what went wrong elsewhere."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest

from kandinsky.server import fetching
from kandinsky.server.errors import ApiError
from kandinsky.server.fetching import Fetcher, is_public
from kandinsky.server.webhooks import Webhook
from tests.server.instant import Served, png, served


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as found:
        yield found


# Row 8: what is fetched for a client.

BLOCKED = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1",
]  # fmt: skip
ADDRESSES = [
    "http://images.example/a.png", "ftp://images.example/a", "file:///etc/passwd", "gopher://images.example/",
    "//images.example/a", "https://127.0.0.1/", "https://0177.0.0.1/", "https://2130706433/", "https://0x7f000001/",
    "https://127.1/", "https://[::1]/", "https://localhost/", "https://images.example@127.0.0.1/",
    "https://127.0.0.1#images.example", "https://images.example:22/", "https://images.example.evil.example/",
    "https://evil.example/images.example", "https://images%2eexample/", "https://images.example\\@127.0.0.1/",
    "https://images.example\r\nHost: a/", "https://images.example /", "https://ｉmages.example/",
    "https://images.example:99999/", "https://", "https:images.example", "HTTPS://169.254.169.254/latest/meta-data",
]  # fmt: skip


def test_row_08_nothing_is_fetched_unless_it_was_allowed(quick: Served) -> None:
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: heard.append(listening.accept()), daemon=True).start()
        port = listening.getsockname()[1]
        for address in (
            f"http://127.0.0.1:{port}/a.png",
            f"https://127.0.0.1:{port}/",
            f"http://localhost:{port}/",
            *ADDRESSES,
        ):
            body = {"prompt": "a", "images": [{"image_url": address}]}
            answer = quick.send("POST", "/v1/images/edits", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_url"), address
        for path, body in (
            ("/sdapi/v1/img2img", {"prompt": "a", "init_images": [f"http://127.0.0.1:{port}/"]}),
            ("/sdapi/v1/png-info", {"image": f"http://127.0.0.1:{port}/"}),
            ("/api/jobs", {"request": {"prompt": "a", "image": f"http://127.0.0.1:{port}/"}}),
        ):
            assert quick.send("POST", path, json=body).status_code in (400, 422)
        time.sleep(0.2)
    assert heard == []


@pytest.mark.parametrize("address", BLOCKED)
def test_row_08_addresses_of_own_networks_are_blocked(address: str) -> None:
    assert not is_public(address)
    fetcher = Fetcher(["images.example"], lambda host: ["93.184.216.34", address])
    with pytest.raises(ApiError, match="no public address"):
        fetcher.get("https://images.example/a.png", "images")


def test_row_08_other_addresses_are_public() -> None:
    assert all(map(is_public, ("93.184.216.34", "8.8.8.8", "2606:4700:4700::1111")))


@pytest.mark.parametrize("url", ADDRESSES)
def test_row_08_addresses_that_are_not_allowed(url: str) -> None:
    asked: list[str] = []
    fetcher = Fetcher(["images.example"], lambda host: asked.append(host) or ["93.184.216.34"])  # type: ignore[func-returns-value]
    with pytest.raises(ApiError) as caught:
        fetcher.get(url, "images")
    assert (caught.value.status, caught.value.param, asked) == (400, "images", [])


class Far(BaseHTTPRequestHandler):
    """A server of images far away."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(f"{self.headers['host']} {self.path}")
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "https://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/endless":
            while True:
                try:
                    self.wfile.write(b"x" * 2**20)
                except OSError:
                    return
        self.wfile.write(png())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetcher]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificate")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=images.example"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:images.example", *files], check=True, capture_output=True)
    Far.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Far)  # one that is still answered does not hold up the end
    server.block_on_close = False
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(folder / "certificate", folder / "key")
    server.socket = own.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trusted = ssl.create_default_context(cafile=str(folder / "certificate"))
    names = {"images.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    yield Fetcher(list(names), names.__getitem__, trusted, server.server_port)
    server.shutdown()
    server.server_close()


def test_row_08_an_allowed_host_is_asked_at_the_address_that_was_looked_at(
    far: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://images.example:{far.port}"
    with pytest.raises(ApiError, match="no public address"):
        far.get(f"{url}/a.png", "images")
    # A name that means another address when it is asked for again (DNS rebinding) is asked for once.
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    times = iter([["127.0.0.1"], ["10.0.0.1"]])
    monkeypatch.setattr(far, "find", lambda host: next(times))
    assert far.get(f"{url}/a.png", "images") == png()
    assert Far.asked == [f"images.example:{far.port} /a.png"]


def test_row_08_and_15_redirects_sizes_and_wrong_certificates(far: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    monkeypatch.setattr(fetching, "LARGEST", 2**21)
    for url in (f"https://images.example:{far.port}/moved", f"https://images.example:{far.port}/endless"):
        with pytest.raises(ApiError) as caught:
            far.get(url, "images")
        assert caught.value.code == "unsupported_url"
    with pytest.raises(ApiError, match="could not be fetched"):
        far.get(f"https://other.example:{far.port}/a.png", "images")
    assert not [one for one in Far.asked if "secret" in one]


class Moving(BaseHTTPRequestHandler):
    """A program that is told something and sends the teller elsewhere."""

    told: list[str]

    def do_POST(self) -> None:
        type(self).told.append(self.path)
        self.send_response(302 if self.path == "/first" else 204)
        self.send_header("location", "/second")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        pass


def test_row_08_and_15_webhooks_follow_no_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky.server.webhooks.PAUSES", ())
    Moving.told = []
    server = HTTPServer(("127.0.0.1", 0), Moving)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Webhook(f"http://127.0.0.1:{server.server_port}/first", "whsec_YWFhYWFhYWFhYWFh").tell("batch.completed", {})
    server.shutdown()
    server.server_close()
    assert Moving.told == ["/first"]
