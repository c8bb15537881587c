"""Many clients at once: nothing fails, what is too much is told, and nobody is held up by another."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kandinsky.jobs.store import Job
from tests.server.instant import TOKENS, served

CLIENTS = 500
LIGHT = [f"light-{i}" for i in range(9)]


def token(name: str) -> str:
    return TOKENS.get(name, f"{name}-token-of-16-letters")


def named(names: list[str]) -> list[str]:
    return [f"{name}={token(name)}" for name in names]


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 where all have the same."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


async def at_once(url: str, count: int, ask: Any) -> list[Any]:
    """What `count` clients with a connection each get, all at the same time."""
    limits = httpx2.Limits(max_connections=count, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=300) as client:
        return await asyncio.gather(*(ask(client, number) for number in range(count)))


@pytest.fixture
def heads_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests with so many connections that their own client may keep one waiting."""
    monkeypatch.setattr("kandinsky.server.connections.HEAD_SECONDS", 300.0)


@pytest.mark.usefixtures("heads_may_come_late")
def test_500_clients_lose_nothing_and_see_no_failure_of_the_server(tmp_path: Path) -> None:
    cap, answered = 300, threading.Event()

    def draw(job: Job) -> dict[str, Any] | None:
        assert answered.wait(300)
        return None

    with served(tmp_path, draw=draw, most_queued=cap) as small:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}

        async def ask(client: httpx2.AsyncClient, number: int) -> tuple[int, str | None, str | None]:
            body = {"request": {"prompt": f"client {number}", "seed": number, "count": 2}}
            answer = await client.post("/api/jobs", json=body, headers=headers)
            if answer.status_code == 429:
                return 429, answer.headers.get("retry-after"), answer.json()["error"]["code"]
            return answer.status_code, None, answer.json()["jobs"][0]["id"]

        try:
            found = asyncio.run(at_once(small.url, CLIENTS, ask))
        finally:
            answered.set()
        codes = Counter(code for code, _, _ in found)
        assert set(codes) <= {202, 429}, codes
        assert codes[202] >= cap // 2 - 1
        assert codes[429], "more was asked than is taken"
        assert all(
            1 <= int(after or 0) <= 120 and code == "queue_full" for status, after, code in found if status == 429
        )
        names = [name for status, _, name in found if status == 202]
        deadline = time.monotonic() + 240
        while True:
            counts = small.get("/metrics").text
            if 'kandinsky_jobs{state="queued"} 0.0' in counts and 'kandinsky_jobs{state="running"} 0.0' in counts:
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        states = Counter(small.get(f"/api/jobs/{name}").json()["state"] for name in names)
        assert states == {"done": len(names)}
        assert f'kandinsky_requests_total{{method="POST",route="/api/jobs",status="429"}} {codes[429]}.0' in counts
        assert 'status="5' not in counts.replace('route="/readyz",status="503"', "")


@pytest.mark.usefixtures("heads_may_come_late")
def test_500_clients_of_the_openai_api_each_get_their_image(tmp_path: Path) -> None:
    with served(tmp_path) as small:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}

        async def ask(client: httpx2.AsyncClient, number: int) -> tuple[int, int]:
            body = {"prompt": "a fox", "seed": number, "size": "8x8"}
            answer = await client.post("/v1/images/generations", json=body, headers=headers)
            return answer.status_code, answer.json()["data"][0]["seed"] if answer.status_code == 200 else -1

        found = asyncio.run(at_once(small.url, CLIENTS, ask))
        assert found == [(200, number) for number in range(CLIENTS)]


def test_one_heavy_and_nine_light_tokens_are_served_alike(tmp_path: Path) -> None:
    """One queues 100 images and nine 10 each; when the light ones have all of theirs, the heavy one has as many."""
    begun = threading.Event()

    def draw(job: Job) -> dict[str, Any] | None:
        assert begun.wait(120)
        return None

    with served(tmp_path, draw=draw, owners=named(["heavy", *LIGHT])) as small:
        for name, count in (("heavy", 100), *((name, 10) for name in LIGHT)):
            headers = {"authorization": f"Bearer {token(name)}"}
            body = {"request": {"prompt": name, "seed": 1, "count": count}}
            answer = httpx2.post(f"{small.url}/api/jobs", json=body, headers=headers, timeout=120)
            assert answer.status_code == 202, answer.text
        begun.set()
        deadline = time.monotonic() + 200
        while 'kandinsky_jobs{state="done"} 190.0' not in small.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        jobs = sorted((job["ended"], name) for name in ("heavy", *LIGHT) for job in listed(small, name))
        last = max(at for at, name in jobs if name != "heavy")
        counts = Counter(name for at, name in jobs if at <= last)
        assert jain([counts[name] for name in ("heavy", *LIGHT)]) >= 0.95, counts
        # Whoever came last waited for one of each, and not for a hundred.
        assert {name for _, name in jobs[:20]} == {"heavy", *LIGHT}


def listed(small: Any, name: str) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {token(name)}"}
    answer = httpx2.get(f"{small.url}/api/jobs?state=done&limit=200", headers=headers, timeout=60)
    found: list[dict[str, Any]] = answer.json()["jobs"]
    return found


@pytest.mark.usefixtures("heads_may_come_late")
def test_clients_that_hold_connections_hold_up_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as small:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}

        async def hold() -> float:
            held = [await asyncio.open_connection("127.0.0.1", small.port) for _ in range(200)]
            for _, writer in held:
                writer.write(b"GET /v1/models HTTP/1.1\r\nHost: 127")
            async with httpx2.AsyncClient(base_url=small.url, timeout=60) as client:
                slowest = 0.0
                for _ in range(20):
                    begun = time.monotonic()
                    assert (await client.get("/v1/models", headers=headers)).status_code == 200
                    slowest = max(slowest, time.monotonic() - begun)
            for _, writer in held:
                writer.close()
            return slowest

        assert asyncio.run(hold()) < 30


def test_more_than_can_be_answered_is_told(tmp_path: Path) -> None:
    told, refused = threading.Event(), list[httpx2.Response]()

    def draw(job: Job) -> dict[str, Any] | None:
        told.wait(60)
        return None

    with served(tmp_path, draw=draw, most_requests=5) as small:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}

        async def ask(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            body = {"prompt": "a", "seed": number}
            answer = await client.post("/v1/images/generations", json=body, headers=headers)
            if answer.status_code == 503:
                refused.append(answer)
            if len(refused) == 7:
                told.set()
            return answer

        found = asyncio.run(at_once(small.url, 12, ask))
        assert Counter(one.status_code for one in found) == {200: 5, 503: 7}
        assert all(one.headers["retry-after"] == "5" for one in found if one.status_code == 503)


@pytest.mark.parametrize("wait", [0.0, 30.0])
def test_a_server_that_is_stopped_answers_or_says_when_to_come_again(tmp_path: Path, wait: float) -> None:
    held = threading.Event()

    def draw(job: Job) -> dict[str, Any] | None:
        held.wait(60)
        return None

    with served(tmp_path, draw=draw, drain=wait) as small:
        headers = {"authorization": f"Bearer {TOKENS['ada']}"}

        async def stop(client: httpx2.AsyncClient) -> None:
            """Stops the server while three wait; their images are drawn once it stops, or when all have answers."""
            deadline = time.monotonic() + 60
            while len((await client.get("/api/jobs", headers=headers)).json()["jobs"]) < 3:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            small.running.should_exit = True
            while not small.app.state.service.draining:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            if wait:
                held.set()

        async def ask(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            stream = number == 1
            body = {"prompt": "a", "seed": number, "stream": stream}
            if number == 3:
                await stop(client)
                return httpx2.Response(200)
            return await client.post("/v1/images/generations", json=body, headers=headers)

        try:
            first, stream, *_ = asyncio.run(at_once(small.url, 4, ask))
        finally:
            held.set()
        if wait:
            assert first.status_code == 200
            assert "image_generation.completed" in stream.text
        else:
            assert (first.status_code, first.json()["error"]["code"]) == (503, "stopping")
            assert first.headers["retry-after"] == "5"
            assert '"code": "stopping"' in stream.text
