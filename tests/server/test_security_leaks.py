"""What is run, what leaks, and what one job does to others: rows 1 to 5, 11, 13, 14, 17, 18 and 20."""

import ast
import contextlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import kandinsky
from kandinsky.core.errors import KandinskyError
from kandinsky.core.metadata import Metadata, read_metadata, summary
from kandinsky.engine.embedded import embedded_folder
from kandinsky.server.logs import LOGGER, Lines
from tests.server.instant import TOKENS, Served, free_port, routes, served

SOURCES = Path(kandinsky.__file__).parent
CANARY = "a-prompt-nobody-is-to-read"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data")) as found:
        yield found


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


def by_attribute(marker: Path) -> bytes:
    """As scanners of pickles miss it: the function comes by way of another module."""
    return (
        b"\x80\x04c_operator\nattrgetter\n(S'system'\ntRcos\n__dict__\n0cposixpath\nos\n"
        + f"c_operator\nmethodcaller\n(S'system'\nS'touch {marker}'\ntRcposixpath\nos\n\x85R.".encode()
    )


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3")
    return made.getvalue()


def bombs(marker: Path) -> list[bytes]:
    plain = pickle.dumps(Bomb(marker))
    return [plain, zipped(plain), by_attribute(marker), zipped(by_attribute(marker)), b"junk" + plain]


def test_row_01_and_03_no_route_reads_a_pickle(quick: Served, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    unread = [("POST", "/sdapi/v1/interrupt"), ("DELETE", "/api/session")]  # which take no body
    for data in bombs(marker):
        for method, route in routes(quick):
            if method == "GET":
                continue
            path = route.replace("{name}", "0" * 32)
            answer = quick.send(method, path, content=data, headers={"content-type": "application/octet-stream"})
            assert 400 <= answer.status_code < 500 or (method, route) in unread, (method, route, answer.text)
            answer = quick.send(method, path, files={"image": data, "mask": data, "file": data}, data={"prompt": "a"})
            assert 400 <= answer.status_code < 500 or (method, route) in unread, (method, route, answer.text)
        for path in ("/api/models/install", "/v1/models", "/api/v2/models/install", "/sdapi/v1/refresh-loras"):
            assert quick.send("POST", path, content=data).status_code in (404, 405)
    assert not marker.exists()


def test_row_01_and_03_models_that_are_pickles_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for number, data in enumerate(bombs(marker)):
        folder = tmp_path / f"model-{number}"
        shutil.copytree(embedded_folder(), folder)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"):
            (folder / "unet" / name).write_bytes(data)
        with pytest.raises(KandinskyError):
            kandinsky.load(folder, device="cpu").generate("a", steps=1, prior_steps=1)
    assert not marker.exists()


def calls(path: Path) -> Iterator[str]:
    """What a file calls and imports, by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)):
                yield f"{module}.{name}"
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Import(names=names):
                yield from (one.name for one in names)
            case ast.ImportFrom(module=str(module)):
                yield module


def test_row_02_pickles_are_read_in_one_place() -> None:
    risky = re.compile(r"torch\.load|pickle\.(loads?|Unpickler)|(dill|joblib|shelve|marshal)\b.*|eval|exec")
    found = {
        (path.relative_to(SOURCES).as_posix(), name)
        for path in SOURCES.rglob("*.py")
        for name in calls(path)
        if risky.fullmatch(name)
    }
    assert {place for place, _ in found} <= {"checkpoints/torchscript.py", "checkpoints/untrusted_pickle.py"}, found


def test_row_14_processes_speak_json() -> None:
    for folder in ("server", "jobs"):
        for path in (SOURCES / folder).rglob("*.py"):
            bad = {
                "pickle",
                "multiprocessing",
                "zmq",
                "xmlrpc",
                "socketserver",
                "concurrent.futures.process",
                "marshal",
            }
            assert not bad & set(calls(path)), path


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_row_14_one_port_is_open(quick: Served) -> None:
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [os.getpid(), *(int(pid) for path in children for pid in path.read_text().split())]
    inodes = set()
    for pid in pids:
        for one in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(one)))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}
    assert listening == {f"0100007F:{quick.port:04X}"}


def test_row_04_nothing_of_a_model_is_run(tmp_path: Path) -> None:
    """A folder that names classes and code of its own, as loaders of others ran."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    shutil.copytree(embedded_folder(), folder)
    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("pipeline.py", "unet/modeling.py", "custom.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"custom_pipeline": "custom", "auto_map": {"AutoModel": "custom.Model"}, "trust_remote_code": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"_custom": ["custom", "Model"], "auto_map": {"AutoModel": "modeling.Model"}}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    script = (
        "import sys, kandinsky\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, given: seen.append(str(given[0])) if name == 'import' else None)\n"
        "try:\n    kandinsky.load(sys.argv[1], device='cpu').generate('a', steps=1, prior_steps=1)\n"
        "except kandinsky.KandinskyError as error:\n    print(error)\n"
        "assert not {'custom', 'pipeline', 'modeling'} & set(seen)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES.parent), *sys.path])}
    subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, cwd=folder.parent, check=True)
    assert not marker.exists()


def test_row_05_weights_that_are_damaged_keep_the_server_up(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder(), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KANDINSKY_TOKEN": "me=" + "t" * 20}
    port = free_port()
    command = [sys.executable, "-m", "kandinsky", "serve", "--model", str(folder), "--data", str(tmp_path / "data")]
    # A pipe that nobody reads would hold the server up once it is full.
    with (tmp_path / "stderr").open("wb") as said:
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], env=environment, stderr=said)
    try:
        url, deadline, reason = f"http://127.0.0.1:{port}", time.monotonic() + 120, ""
        while "damaged" not in reason and "cannot be read" not in reason and "safetensors" not in reason:
            assert time.monotonic() < deadline, reason
            assert process.poll() is None
            time.sleep(0.1)
            with contextlib.suppress(httpx2.TransportError):
                answer = httpx2.get(f"{url}/readyz", headers={"authorization": "Bearer " + "t" * 20}, timeout=30)
                assert answer.status_code == 503
                reason = answer.json()["reason"]
        assert httpx2.get(f"{url}/healthz").status_code == 200
        assert "reason" not in httpx2.get(f"{url}/readyz").json(), "whoever has no token is told nothing"
    finally:
        process.kill()
        process.wait()


# Row 11: what is written by one and read by another.

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</textarea><svg onload=alert(1)>",
    "javascript:alert(1)",
    "a\nNegative prompt: b\nSteps: 1, Sampler: x, Seed: 99",
    "a\r\nset-cookie: x=1",
    "\u202egpj.exe",
    "event: job\ndata: {}\n\n",
    "a, Seed: 5, Steps: 999",
]


def ended(quick: Served, name: str, owner: str = "ada") -> dict[str, Any]:
    while (job := quick.get(f"/api/jobs/{name}", owner).json())["state"] in ("queued", "running"):
        time.sleep(0.02)
    found: dict[str, Any] = job
    return found


@pytest.mark.parametrize("text", PAYLOADS)
def test_row_11_texts_stay_texts(quick: Served, tmp_path: Path, text: str) -> None:
    answer = quick.send("POST", "/api/jobs", json={"request": {"prompt": text, "seed": 3}})
    name = answer.json()["jobs"][0]["id"]
    job = ended(quick, name)
    assert job["request"]["prompt"] == text
    assert answer.headers["content-type"] == "application/json"
    assert "set-cookie" not in answer.headers
    image = quick.get(f"/api/images/{name}")
    assert image.headers["content-type"] == "image/png"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert image.headers["content-security-policy"].startswith("sandbox")
    assert image.headers["content-disposition"].startswith("attachment")
    (tmp_path / "image.png").write_bytes(image.content)
    found = read_metadata(tmp_path / "image.png")
    assert (found.request["prompt"], found.request["seed"]) == (text, 3)
    events = quick.get(f"/api/jobs/{name}/events").text
    assert [block.split("\n")[0] for block in events.split("\n\n") if block] == [
        "event: state",
        "event: done",
        "event: job",
    ]


@pytest.mark.parametrize("text", PAYLOADS)
def test_row_11_a_prompt_is_no_setting_for_those_who_read_the_text(text: str) -> None:
    """The line of settings in what other tools show is ours, whatever the prompt holds."""
    made = summary(Metadata({"prompt": text, "seed": 3, "steps": 7, "count": 1}, "emoji"))
    pairs = dict(re.findall(r"(\w+): ([^,]+)", made.splitlines()[-1]))
    assert (pairs["Seed"], pairs["Steps"], pairs["Model"]) == ("3", "7", "emoji")


def test_row_11_no_answer_is_a_page_or_a_script(quick: Served) -> None:
    for path in ("/nothing<script>", "/v1/models/%3Cscript%3E", "/api/jobs?state=%3Cscript%3E", "/openapi.json"):
        answer = quick.get(path)
        assert answer.headers["content-type"].startswith("application/json")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    name = quick.send("POST", "/v1/files", data={"purpose": "user_data"}, files={"file": ("x.html", b"<script>")})
    content = quick.get(f"/v1/files/{name.json()['id']}/content")
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-disposition"].startswith("attachment")


# Row 17: one job and the others.


def test_row_17_want_of_memory_and_crashes_are_told_and_others_go_on(tmp_path: Path) -> None:
    said = {
        "memory": {"type": "out of memory", "message": "RuntimeError: CUDA out of memory at 0x7f00", "hint": ""},
        "crash": {"type": "crash", "message": "It ended its worker 2 times or more."},
        "bug": {"type": "ValueError", "message": f"ValueError: {tmp_path} <Image at 0x7fbeef>", "hint": ""},
    }

    def draw(job: Any) -> dict[str, Any] | None:
        return said.get(job.request["request"]["prompt"])

    with served(tmp_path, draw=draw) as small:
        for prompt, status, code in (
            ("memory", 507, "out_of_memory"),
            ("crash", 500, "internal_error"),
            ("bug", 500, "internal_error"),
        ):
            answer = small.send("POST", "/v1/images/generations", json={"prompt": prompt})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert answer.headers["x-should-retry"] == "false"
            jobs = small.get(f"/api/jobs?text={prompt}").text
            for text in (answer.text, jobs):
                assert str(tmp_path) not in text
                assert "0x" not in text
        assert small.send("POST", "/v1/images/generations", json={"prompt": "a fox"}).status_code == 200
        counted = small.get("/metrics").text
        assert 'kandinsky_failures_total{kind="out of memory"} 1.0' in counted
        assert 'kandinsky_failures_total{kind="crash"} 1.0' in counted


def test_row_17_what_is_too_much_is_refused_before_it_is_queued(quick: Served) -> None:
    for path, body in (
        ("/v1/images/generations", {"prompt": "a", "size": "8192x8192"}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "width": 8192, "height": 8192}),
        ("/api/jobs", {"request": {"prompt": "a", "width": 8192, "height": 8192}}),
        ("/api/jobs", {"request": {"prompt": "a" * 32_001}}),
        ("/sdapi/v1/txt2img", {"prompt": "a" * 32_001}),
        ("/api/jobs", {"request": {"prompt": "a", "count": 10_001}}),
    ):
        answer = quick.send("POST", path, json=body)
        assert answer.status_code in (400, 422), (path, answer.text)


# Row 18: what is said of this machine, of tokens and of prompts.

HINTS = re.compile(r"0x[0-9a-f]{6,}|Traceback|/(tmp|root|home|usr|work)/|site-packages|\.py\b|sk-[A-Za-z0-9]")


def test_row_18_no_answer_says_where_it_comes_from(quick: Served) -> None:
    name = quick.send("POST", "/api/jobs", json={"request": {"prompt": "a", "seed": 1}}).json()["jobs"][0]["id"]
    ended(quick, name)
    for method, route in routes(quick):
        if route == "/api/events":  # has no end; jobs' own streams are looked at below
            continue
        for value in (name, "0" * 32, "%00", "a" * 300):
            path = route.replace("{name}", value)
            for given in ({}, {"json": {}}, {"json": [1]}, {"content": b"{"}, {"files": {"image": b"x"}}):
                if method == "DELETE" and value == name:
                    continue
                answer = quick.send(method, path, **given)
                assert answer.status_code < 500, (method, path, answer.text)
                assert not HINTS.search(answer.text), (method, path, HINTS.search(answer.text))
                assert "server" not in answer.headers
                assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


def test_row_18_what_fails_here_is_told_by_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as small:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError(f"{tmp_path} {TOKENS['ada']} {CANARY} at 0x7fffff00")

        monkeypatch.setattr(small.app.state.service, "job", broken)
        answer = small.get("/api/jobs/" + "0" * 32)
        assert answer.status_code == 500
        assert not HINTS.search(answer.text)
        assert CANARY not in answer.text
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("prompts", [False, True])
def test_row_18_the_log_has_lines_without_tokens_and_prompts(form: Any, prompts: bool, tmp_path: Path) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(Lines(form, prompts))
    loggers = [logging.getLogger(name) for name in (LOGGER, "uvicorn")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.DEBUG)
    try:
        with served(tmp_path) as small:
            for path, body in (
                ("/api/jobs", {"request": {"prompt": CANARY}}),
                ("/v1/images/generations", {"prompt": f"{CANARY}\nlevel=error event=made"}),
                ("/v1/images/generations", {"prompt": CANARY, "colour": CANARY}),
                ("/sdapi/v1/txt2img", {"prompt": CANARY, "negative_prompt": CANARY}),
            ):
                small.send("POST", path, json=body)
            small.get(f"/api/jobs?text={CANARY}")
            small.get("/v1/models", "sk-a-wrong-token-of-somebody")
            small.get(f"/nothing/{CANARY}%0d%0aevent")

            async def broken(*_: object) -> None:
                raise ValueError(f"{CANARY}")

            small.app.state.service.job = broken
            small.get("/api/jobs/" + "0" * 32)
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
    text = written.getvalue()
    assert (CANARY in text) is prompts
    for secret in (*TOKENS.values(), "sk-a-wrong"):
        assert secret not in text
    lines = text.splitlines()
    assert len(lines) >= 9
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert {"time", "level", "event"} <= set(found[0])
        answered = [one for one in found if one["event"] == "answered" and one["route"] == "/v1/images/generations"]
        assert {one["status"] for one in answered} == {200, 400}
        assert {one["owner"] for one in answered} == {"ada"}
        (failed,) = [one for one in found if one["level"] == "error"]
        assert failed["error"].startswith("ValueError")
    else:
        assert all(
            re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (info|warning|error|debug) \S", line) for line in lines
        )


# Row 20: texts that take long.


LONG = ["(" * 31_000, "((a:1.1)" * 4000, "[" * 31_000, "\\(" * 15_000, "a:1.1" * 6000, " " * 32_000, "\u0301" * 31_000]


@pytest.mark.parametrize("text", LONG)
def test_row_20_no_text_takes_long(quick: Served, text: str) -> None:
    for path, body in (
        ("/v1/images/generations", {"prompt": text}),
        ("/sdapi/v1/txt2img", {"prompt": text}),
        ("/api/jobs", {"request": {"prompt": text}}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "sampler_name": text}),
    ):
        # The server is a thread of this process; by the clock others on the machine would count too.
        begun = time.process_time()
        assert quick.send("POST", path, json=body).status_code < 500
        assert time.process_time() - begun < 5


def test_row_20_a_megabyte_of_brackets_is_refused_at_once(quick: Served) -> None:
    for text in ("(" * 10**6, "[" * 10**6, '{"a":' * 10**5):
        for path in ("/v1/images/generations", "/api/jobs", "/sdapi/v1/txt2img"):
            begun = time.process_time()
            raw = {"content": text.encode(), "headers": {"content-type": "application/json"}}
            assert quick.send("POST", path, **raw).status_code in (400, 413)
            assert quick.send("POST", path, json={"prompt": text, "request": {"prompt": text}}).status_code in (
                400,
                413,
            )
            assert time.process_time() - begun < 5


def test_row_13_the_application_for_ray_asks_for_tokens() -> None:
    """deploy/ray_serve.py; what runs on it is tested in test_deploy.py."""
    text = Path(__file__).parents[2].joinpath("deploy", "ray_serve.py").read_text(encoding="utf-8")
    assert 'os.environ["RAY_AUTH_MODE"] = "token"' in text
    assert "include_dashboard=False" in text
    assert "0.0.0.0" not in text
