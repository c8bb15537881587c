"""Images and bodies that are meant to do harm: rows 9, 10 and 16 of what went wrong elsewhere."""

import base64
import contextlib
import io
import os
import random
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from kandinsky.server import uploads
from kandinsky.server.decoding import Decoders, RefusedError
from kandinsky.server.errors import ApiError
from tests.server.instant import Served, png, served

MEGABYTE = 2**20
in_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as found:
        yield found


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG that says it is so large and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A small file that is a large image, whole and valid."""
    packed = zlib.compressobj(9)
    row = bytes(1 + side // 8 + (side % 8 > 0))
    data = b"".join([*(packed.compress(row) for _ in range(side)), packed.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_text(length: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "x" * length, zip=True)
    made = io.BytesIO()
    Image.new("RGB", (64, 64)).save(made, "PNG", pnginfo=info)
    return made.getvalue()


def saved(image: Image.Image, kind: str, **given: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **given)
    return made.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(40)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
REFUSED: dict[str, Callable[[], bytes]] = {
    "bomb of 13000": lambda: bomb(13_000),
    "bomb of 19000": lambda: bomb(19_000),
    "a side of 8193": lambda: claims(8193, 8),
    "33 million pixels": lambda: claims(8000, 4200),
    "4 billion pixels": lambda: claims(65_000, 65_000),
    "no pixels": lambda: claims(0, 0),
    "1x1": lambda: png((1, 1)),
    "1x64": lambda: png((1, 64)),
    "7x7": lambda: png((7, 7)),
    "pixels that are not there": lambda: claims(64, 64, data=b"\0"),
    "text of 10 MB": lambda: with_text(10 * MEGABYTE),
    "cut off": lambda: saved(NOISE, "PNG")[:6000],
    "a JPEG that is cut off": lambda: saved(NOISE, "JPEG")[:600],
    "a WebP that is cut off": lambda: saved(NOISE, "WEBP")[:600],
    "a GIF": lambda: animated("GIF"),
    "a TIFF": lambda: saved(Image.new("RGB", (64, 64)), "TIFF"),
    "a BMP": lambda: saved(Image.new("RGB", (64, 64)), "BMP"),
    "an SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a zip": lambda: b"PK\x03\x04" + bytes(100),
    "nothing": lambda: b"",
    "HTML": lambda: b"<html><script>alert(1)</script>",
}
TAKEN: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: saved(Image.new("CMYK", (64, 64), (1, 2, 3, 4)), "JPEG"),
    "16 bits": lambda: saved(Image.fromarray(np.full((64, 64), 40_000, np.uint16)), "PNG"),
    "a palette": lambda: saved(Image.new("P", (64, 64)), "PNG"),
    "grey": lambda: saved(Image.new("L", (64, 64)), "PNG"),
    "black and white": lambda: saved(Image.new("1", (64, 64)), "PNG"),
    "transparent": lambda: png((64, 64), (0, 0, 0, 0)),
    "an animation": lambda: animated("PNG"),
    "an animated WebP": lambda: animated("WEBP"),
    "8x8": lambda: png((8, 8)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_row_09_images_that_are_refused(quick: Served, name: str) -> None:
    data, begun = REFUSED[name](), time.monotonic()
    answer = quick.send("POST", "/v1/images/edits", data={"prompt": "a fox"}, files={"image": data or b"\0"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "image"
    assert time.monotonic() - begun < 45  # a decoder has 15 s, and may have to be started


@pytest.mark.parametrize("name", TAKEN)
def test_row_16_images_that_are_unusual_and_taken(quick: Served, name: str) -> None:
    answer = quick.send("POST", "/v1/images/edits", data={"prompt": "a fox"}, files={"image": TAKEN[name]()})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_row_09_damaged_images_are_refused_or_read(kind: str) -> None:
    draw, whole = random.Random(kind), saved(NOISE, kind)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        cut = bytes(data[: draw.randrange(len(data))] if number % 3 == 0 else data)
        with contextlib.suppress(ApiError):  # and nothing else
            assert uploads.opened(cut, "image").mode in ("RGB", "RGBA")


@in_proc
def test_row_09_decoding_is_elsewhere_and_that_process_can_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANDINSKY_TOKEN", "a-token-that-nobody-else-is-to-know")
    decoders = Decoders(1)
    try:
        assert decoders.ask({"work": "image"}, png())[0] == {"mode": "RGB", "size": [64, 64]}
        child = decoders._free.queue[0]
        assert child is not None
        assert child.pid != os.getpid()
        assert b"that-nobody-else" not in Path(f"/proc/{child.pid}/environ").read_bytes()
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        assert f"Max address space         {2**31}" in limits
        assert "Max file size             0" in limits
        os.kill(child.pid, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (child.pid, signal.SIGKILL)).start()
        with pytest.raises(RefusedError):
            decoders.ask({"work": "image"}, png())
        assert child.wait(10) == -signal.SIGKILL
        assert decoders.ask({"work": "image"}, png())[0]["size"] == [64, 64]
    finally:
        decoders.close()


@in_proc
def test_row_09_decoding_has_an_end() -> None:
    decoders = Decoders(1, seconds=5.0)  # which the first images of new processes are not to take either
    try:
        decoders.ask({"work": "image"}, png())
        child = decoders._free.queue[0]
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)  # as a decoder that never comes back
        begun = time.monotonic()
        with pytest.raises(RefusedError, match="more time or memory"):
            decoders.ask({"work": "image"}, png())
        assert time.monotonic() - begun < 60
        assert decoders.ask({"work": "image"}, png())[0]["size"] == [64, 64]
    finally:
        decoders.close()


@in_proc
def test_row_09_decoding_has_little_memory() -> None:
    decoders = Decoders(1, memory=600 * MEGABYTE)
    try:
        with pytest.raises(RefusedError, match="memory"):
            decoders.ask({"work": "image"}, saved(Image.new("I;16", (5600, 5600)), "PNG", compress_level=1))
        assert decoders.ask({"work": "image"}, png())[0]["size"] == [64, 64]
    finally:
        decoders.close()


# Where a parser may take long, time is that of this process, in which the server is a thread: by the clock whatever
# else the machine does would count too.


def memory() -> int:
    """Bytes of this process, in which the server is a thread, that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def streamed(quick: Served, path: str, kind: str, first: bytes, part: bytes, most: int) -> tuple[int, bytes]:
    """How many bytes of a body without a length are taken before the answer, and the answer."""
    head = quick.head("POST", path, f"Content-Type: {kind}", "Transfer-Encoding: chunked").encode()
    sent, found = 0, b""
    with socket.create_connection(("127.0.0.1", quick.port)) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(first), first) if first else head)
        connection.settimeout(0.001)
        try:
            while sent < most and not found:
                connection.settimeout(20)
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                sent += len(part)
                connection.settimeout(0.0001)
                try:
                    found = connection.recv(4096)
                except TimeoutError:
                    continue
        except OSError:
            connection.settimeout(5)
            try:
                found = connection.recv(4096)
            except OSError:
                found = b"closed"
    return sent, found


FORM = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@in_proc
@pytest.mark.parametrize(
    ("path", "kind", "first", "most"),
    [
        ("/v1/images/generations", "application/json", b"", 16),
        ("/v1/images/edits", "multipart/form-data; boundary=x", FORM, 96),
        ("/v1/files", "multipart/form-data; boundary=x", FORM, 230),
        ("/api/jobs", "application/json", b"", 96),
        ("/sdapi/v1/txt2img", "application/json", b"", 16),
    ],
)
def test_row_10_a_body_of_a_gigabyte_is_cut_and_not_held(
    quick: Served, path: str, kind: str, first: bytes, most: int
) -> None:
    part = b"x" * MEGABYTE
    before, peak, over = memory(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], memory())

    watching = threading.Thread(target=watch)
    watching.start()
    sent, found = streamed(quick, path, kind, first, part, 1024 * MEGABYTE)
    over.set()
    watching.join()
    assert sent <= most * MEGABYTE, "more was taken than there is a limit"
    assert found == b"closed" or found.startswith(b"HTTP/1.1 413"), found[:200]
    # Forms lie on the disk while they come; what is no form is at most what the path takes.
    held = 20 if first else most + 20
    assert peak[0] - before < held * MEGABYTE


def test_row_10_a_length_that_is_too_large_is_refused_before_anything_is_read(quick: Served) -> None:
    begun = time.process_time()
    for length in ("1073741824", "9" * 30, "-1", "1e3", "x"):
        answer = quick.raw(quick.head("POST", "/v1/images/edits", f"Content-Length: {length}").encode())
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400")), answer[:100]
    assert time.process_time() - begun < 5


def test_row_10_parts_without_number_are_refused(quick: Served) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n'
    body = b"".join(part % i for i in range(100_000)) + b"--x--\r\n"
    begun = time.process_time()
    for path in ("/v1/images/edits", "/v1/images/variations", "/v1/files"):
        answer = quick.send("POST", path, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_form"
    assert time.process_time() - begun < 6


@pytest.mark.parametrize(
    "body",
    [
        b"--x" * 100_000,
        b"--x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 500_000 + b'"\r\n\r\n1\r\n--x--\r\n',
        b"\r\n" * 300_000,
        b"--x\r\n\r\n\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"p" * 3 * MEGABYTE + b"\r\n--x--\r\n",
    ],
)
def test_row_10_forms_that_take_a_parser_long_are_refused(quick: Served, body: bytes) -> None:
    begun = time.process_time()
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = quick.send("POST", "/v1/images/edits", content=body, headers=kind)
    assert answer.status_code in (400, 413)
    assert "error" in answer.json()
    assert time.process_time() - begun < 5


def test_row_10_a_head_of_a_megabyte_is_refused(quick: Served) -> None:
    for head in ("X-A: " + "a" * MEGABYTE, "\r\n".join(f"X-{i}: a" for i in range(100_000))):
        answer = quick.raw(quick.head("GET", "/healthz", head).encode())
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:100]


def test_row_10_ranges_cost_nothing(quick: Served) -> None:
    job = quick.send("POST", "/api/jobs", json={"request": {"prompt": "a", "seed": 1}}).json()["jobs"][0]["id"]
    deadline = time.monotonic() + 60
    while quick.get(f"/api/jobs/{job}").json()["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    many = "bytes=" + ",".join(f"{i}-{i}" for i in range(10_000))
    for given in (many, "bytes=0-,0-,0-", "bytes=-1", "bytes=9999999-", "bytes=a-b", "lines=1"):
        begun = time.process_time()
        answer = quick.get(f"/api/images/{job}", headers={"range": given})
        assert answer.status_code in (200, 206, 400, 416)
        assert time.process_time() - begun < 2


def test_row_10_clients_that_never_come_to_an_end_are_left(quick: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky.server.connections.HEAD_SECONDS", 3.0)
    monkeypatch.setattr("kandinsky.server.gate.BODY_SECONDS", 1.0)
    with (
        socket.create_connection(("127.0.0.1", quick.port)) as nothing,
        socket.create_connection(("127.0.0.1", quick.port)) as half,
        socket.create_connection(("127.0.0.1", quick.port)) as body,
    ):
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127")
        body.sendall(quick.head("POST", "/v1/batches", "Content-Length: 1000").encode() + b"{")
        for one, expected in ((nothing, b""), (half, b""), (body, b"HTTP/1.1 408")):
            one.settimeout(60)
            try:
                found = one.recv(1000)
            except ConnectionResetError:
                found = b""
            assert found[: len(expected) or 1] == expected


def test_row_10_a_client_that_reads_nothing_is_left(quick: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kandinsky.server.connections.READING_SECONDS", 0.5)
    content = {"file": ("a", os.urandom(40 * MEGABYTE))}
    name = quick.send("POST", "/v1/files", data={"purpose": "user_data"}, files=content).json()["id"]
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", quick.port))
        slow.sendall(quick.head("GET", f"/v1/files/{name}/content").encode())
        slow.settimeout(60)
        got, deadline = len(slow.recv(1)), time.monotonic() + 60
        while quick.running.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with contextlib.suppress(ConnectionResetError):
            while part := slow.recv(MEGABYTE):
                got += len(part)
        assert got < 40 * MEGABYTE
    quick.send("DELETE", f"/v1/files/{name}")


def test_row_10_bodies_of_all_together_have_a_limit(tmp_path: Path) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    body = FORM + b"x" * 2 * MEGABYTE
    with served(tmp_path, most_held=3 * MEGABYTE) as small:
        held = socket.create_connection(("127.0.0.1", small.port))
        length = f"Content-Length: {8 * MEGABYTE}"
        head = small.head("POST", "/v1/images/edits", length, "Content-Type: " + kind["content-type"])
        held.sendall(head.encode() + body)

        def answered(status: int) -> Any:
            """The first answer of that status: the server reads what is held, and hears of its end, when it can."""
            deadline = time.monotonic() + 60
            while (answer := small.send("POST", "/v1/images/edits", content=body, headers=kind)).status_code != status:
                assert answer.status_code in (400, 503), answer.text
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return answer

        assert answered(503).headers.get("retry-after") == "5"
        held.close()
        answered(400)


@pytest.mark.parametrize("field", ["steps", "guidance_scale", "strength", "seed", "n"])
def test_row_16_numbers_that_are_none(quick: Served, field: str) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, '"x"', "[1]", "{}", "true"):
        for path in ("/v1/images/generations", "/api/jobs", "/sdapi/v1/txt2img"):
            said = f'{{"prompt": "a", "{field}": {value}}}'
            body = f'{{"request": {said}}}' if path == "/api/jobs" else said
            kind = {"content-type": "application/json"}
            if path == "/api/jobs" and value == "[1]":
                continue  # one for each prompt
            answer = quick.send("POST", path, content=body.encode(), headers=kind)
            assert 400 <= answer.status_code < 500, (path, value, answer.text)
            assert "error" in answer.json()


def test_row_16_tensors_of_clients_are_refused(quick: Served) -> None:
    for prompt in ({"embedding": [0.0] * 16}, {"path": "/etc/passwd", "sha256": "0" * 64}, ["a", {"x": 1}], 5, None):
        answer = quick.send("POST", "/api/jobs", json={"request": {"prompt": prompt}})
        assert answer.status_code == 400, (prompt, answer.text)
        assert "root:" not in answer.text


def test_row_16_data_urls_that_are_none(quick: Served) -> None:
    whole = base64.b64encode(png()).decode()
    for address in (
        "data:",
        "data:image/png;base64,",
        "data:image/png;base64,###",
        f"data:image/png,{whole}",
        "data:,x",
        "x",
    ):
        given = {"prompt": "a", "images": [{"image_url": address}]}
        assert quick.send("POST", "/v1/images/edits", json=given).status_code == 400
    given = {"prompt": "a", "images": [{"image_url": f"data:image/png;base64,{whole}"}]}
    assert quick.send("POST", "/v1/images/edits", json=given).status_code == 200
