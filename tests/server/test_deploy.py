"""What is in deploy/ fits the package that it deploys."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kandinsky.cli.flags import ServeFlags
from kandinsky.core.errors import RequestError

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLAGS = {f"--{name.replace('_', '-')}" for name in ServeFlags.__dataclass_fields__}


def flags_are_known(words: list[str]) -> bool:
    return {word for word in words if word.startswith("--")} <= FLAGS


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "kandinsky.service").read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_the_command_and_has_no_rights() -> None:
    found = unit()
    program, command, *words = shlex.split(found["ExecStart"][0])
    assert (Path(program).name, command) == ("kandinsky", "serve")
    assert flags_are_known(words)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    data = words[words.index("--data") + 1]
    assert data == f"/var/lib/{found['StateDirectory'][0]}"
    assert float(words[words.index("--drain") + 1]) + 60 < float(found["TimeoutStopSec"][0])
    assert found["CapabilityBoundingSet"] == [""]
    for name in (
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "ProtectKernelModules",
        "RestrictNamespaces",
        "DynamicUser",
    ):
        assert found[name] == ["yes"], name
    assert found["ProtectSystem"] == ["strict"]
    assert not [value for value in found.get("Environment", []) if "TOKEN" in value], "secrets are in no unit"


def test_the_unit_is_one() -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    ended = subprocess.run(
        [program, "verify", DEPLOY / "kandinsky.service"], capture_output=True, text=True, check=False
    )
    said = [line for line in ended.stderr.splitlines() if "kandinsky.service" in line and "not executable" not in line]
    assert not said, said


def test_the_image_is_of_what_is_there_and_runs_as_nobody() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    of = lambda name: [value for kind, value in lines if kind == name]  # noqa: E731
    for value in of("COPY"):
        *sources, _ = [word for word in value.split() if not word.startswith("--")]
        for source in sources:
            assert source.startswith("/opt/") or (REPOSITORY / source).exists(), source
    torch = next(one for one in PROJECT["dependencies"] if one.startswith("torch"))
    assert f'"{torch}"' in text
    assert re.search(r"pip install '\.\[server\]'", text)
    assert "server" in PROJECT["optional-dependencies"]
    python = re.findall(r"^FROM python:(\d\.\d+)-slim", text, re.MULTILINE)
    assert len(set(python)) == 1
    assert f"Programming Language :: Python :: {python[0]}" in PROJECT["classifiers"]
    (user,) = of("USER")
    assert int(user.split(":")[0]) > 0
    assert lines.index(["USER", user]) < min(i for i, (kind, _) in enumerate(lines) if kind == "ENTRYPOINT")
    entry = re.findall(r'"([^"]*)"', of("ENTRYPOINT")[0])
    assert entry[:2] == ["kandinsky", "serve"]
    assert flags_are_known(entry)
    assert set(re.findall(r'"([^"]*)"', of("VOLUME")[0])) == {"/data", "/models"}, "all that is written, but /tmp"
    assert "TOKEN" not in " ".join(of("ENV") + of("ARG")), "secrets are in no image"
    assert "--read-only" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_image_is_built_where_there_is_an_engine() -> None:
    program = shutil.which("docker") or shutil.which("podman")
    if program is None or subprocess.run([program, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no engine answers")
    subprocess.run([program, "build", "-f", DEPLOY / "Dockerfile", "-t", "kandinsky-test", REPOSITORY], check=True)


def ray_serve() -> object:
    spec = importlib.util.spec_from_file_location("ray_serve", DEPLOY / "ray_serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_application_for_ray_has_settings_and_asks_for_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    module = ray_serve()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    settings_of = module.settings_of  # type: ignore[attr-defined]
    made = settings_of({"data": str(tmp_path), "token": "ada=" + "t" * 16, "device": "cpu", "host": "a.example"}, "one")
    assert made.data == tmp_path / "one"
    assert list(made.owners.values()) == ["ada"]
    assert made.hosts == ("a.example",)
    with pytest.raises(RequestError, match="no token"):
        settings_of({"data": str(tmp_path)}, "one")
    with pytest.raises(RequestError, match="no 'colour'"):
        settings_of({"token": "t" * 16, "colour": "red"}, "one")


@pytest.mark.slow
def test_ray_serves_the_same_api(tmp_path: Path) -> None:
    """By the line that the module's docstring gives, from the repository."""
    (tmp_path / "token").write_text("r" * 64)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    # A machine that does other things too starts Ray's processes slowly.
    patience = ("PROXY_READY_CHECK_TIMEOUT_S", "PROXY_HEALTH_CHECK_TIMEOUT_S", "PROXY_READY_TIMEOUT_S")
    environment |= {f"RAY_SERVE_{name}": "180" for name in patience}
    probe = [sys.executable, "-c", "from ray import serve"]
    if subprocess.run(probe, env=environment, capture_output=True, check=False).returncode:
        pytest.skip("needs ray[serve]")
    line = ["run", "deploy.ray_serve:application", f"data={tmp_path / 'data'}", "token=ada=" + "t" * 20, "device=cpu"]
    command = [sys.executable, "-m", "ray.serve.scripts", *line]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 480
        while _asked("/readyz")[0] != 200:
            there = server.poll() is None and time.monotonic() < deadline
            assert there, (tmp_path / "log").read_text(errors="replace")[-6000:]
            time.sleep(0.5)
        request = {"prompt": "a fox", "steps": 2, "prior_steps": 1, "seed": 5}
        status, drawn = _asked("/v1/images/generations", request)
        assert status == 200
        assert json.loads(drawn)["data"][0]["seed"] == 5
        assert _asked("/v1/models", token="")[0] == 401
        (replica,) = (tmp_path / "data").iterdir()
        assert len(list((replica / "images").glob("*.png"))) == 1
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(120)


def _asked(path: str, body: object = None, token: str = "t" * 20) -> tuple[int, bytes]:
    """The status and the body of an answer of Ray's proxy; 0 where none came."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:8000{path}", data, headers), timeout=300
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
