"""The API is as its description says, for requests that nobody thought of."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.instant import TOKENS, served

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.parametrize(("examples", "cases"), [(20, 2000), pytest.param(210, 10_000, marks=pytest.mark.slow)])
def test_the_api_is_as_it_is_described(tmp_path: Path, examples: int, cases: int) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("needs schemathesis")
    with served(tmp_path / "data", most_queued=100_000, guesses=10**6) as small:
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.server.schema_hooks",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [
            *(
                sys.executable,
                "-m",
                "schemathesis.cli",
                "--config-file",
                str(CONFIG),
                "run",
                f"{small.url}/openapi.json",
            ),
            *("--header", f"Authorization: Bearer {TOKENS['ada']}"),
            *("--max-examples", str(examples), "--seed", "20", "--continue-on-failure"),
            *("--request-timeout", "60", "--warnings", "off", "--no-color", "--suppress-health-check", "all"),
        ]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        counts = small.get("/metrics").text
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2000:]
    generated = re.search(r"(\d[\d,]*) generated", ended.stdout)
    assert generated is not None, ended.stdout[-3000:]
    assert int(generated[1].replace(",", "")) >= cases
    assert not re.findall(r'kandinsky_requests_total\{.*status="5.*', re.sub(r'.*route="/readyz".*', "", counts))
