"""The contract of the OpenAI Images API, case by case, by the official client with threads and without."""

import asyncio
import base64
import inspect
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import ANY

import httpx2
import openai
import pytest
from PIL import Image

from kandinsky.server.queueing import enqueued
from kandinsky.server.service import ENDED, Service
from tests.server.instant import TOKENS, Instant, Served, png, served

SLOW = "a slow fox"
HELD = "a held fox"
RELEASED = threading.Event()
"""Until it is set whoever draws a held fox waits."""
KINDS = ("sync", "async")


def draw(job: Any) -> dict[str, Any] | None:
    prompt = job.request["request"]["prompt"]
    if prompt == SLOW:
        time.sleep(0.6)
    if str(prompt).startswith(HELD):  # of a variation it is an image
        RELEASED.wait(120)
    if prompt == "too large":
        return {"type": "out of memory", "message": "CUDA out of memory"}
    return None


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("data"), draw=draw, most_queued=60) as found:
        yield found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Client:
    """The official client, whose calls are made here whether they are awaited or not."""

    def __init__(self, kind: str, quick: Served, token: str = TOKENS["ada"], **given: Any) -> None:
        self.kind, self.given = kind, {"base_url": f"{quick.url}/v1", "api_key": token, "max_retries": 0} | given

    def __call__(self, call: Callable[[Any], Any]) -> Any:
        if self.kind == "sync":
            with openai.OpenAI(**self.given) as client:
                found = call(client)
                return list(found) if isinstance(found, openai.Stream) else found
        return asyncio.run(self._awaited(call))

    async def _awaited(self, call: Callable[[Any], Any]) -> Any:
        async with openai.AsyncOpenAI(**self.given) as client:
            found = call(client)
            if inspect.isawaitable(found):
                found = await found
            return [one async for one in found] if hasattr(found, "__aiter__") else found


@pytest.fixture
def client(kind: str, quick: Served) -> Client:
    return Client(kind, quick)


def opened(datum: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


# What is sent and what comes back.


def test_01_a_generation_has_all_fields(client: Client) -> None:
    found = client(lambda c: c.images.generate(prompt="a fox", extra_body={"seed": 5}))
    assert time.time() - found.created < 100
    assert (found.background, found.output_format, found.quality, found.size) == ("opaque", "png", "auto", "auto")
    assert found.usage.total_tokens == found.usage.input_tokens_details.image_tokens == 0
    assert found.data[0].seed == 5
    assert found.data[0].url is None
    assert len(found.data[0].id) == 32
    assert found._request_id


def test_02_seeds_are_random_where_none_is_given(client: Client) -> None:
    seeds = {client(lambda c: c.images.generate(prompt="a fox")).data[0].seed for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.parametrize("count", [1, 2, 10])
def test_03_so_many_images(client: Client, count: int) -> None:
    found = client(lambda c: c.images.generate(prompt="a fox", n=count, extra_body={"seed": 5})).data
    assert [one.seed for one in found] == list(range(5, 5 + count))


@pytest.mark.parametrize("size", ["64x64", "48x64", "8x8"])
def test_04_sizes(client: Client, size: Any) -> None:
    found = client(lambda c: c.images.generate(prompt="a fox", size=size))
    assert "x".join(map(str, opened(found.data[0]).size)) == found.size == size


@pytest.mark.parametrize(("quality", "steps"), [("low", 12), ("medium", 21), ("high", 30), ("max", 60), ("hd", 45)])
def test_05_qualities_are_steps(client: Client, quick: Served, quality: Any, steps: int) -> None:
    name = client(lambda c: c.images.generate(prompt="a fox", quality=quality)).data[0].id
    usual = int(quick.app.state.service.outline.model.defaults["steps"])
    assert quick.get(f"/api/jobs/{name}").json()["request"]["steps"] == round(usual * steps / 30)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_06_formats(client: Client, form: Any) -> None:
    found = client(lambda c: c.images.generate(prompt="a fox", output_format=form, output_compression=50))
    assert (opened(found.data[0]).format, found.output_format) == (form.upper(), form)


def test_07_addresses(client: Client, quick: Served) -> None:
    (datum,) = client(lambda c: c.images.generate(prompt="a fox", response_format="url")).data
    assert datum.b64_json is None
    assert quick.get(datum.url.removeprefix(quick.url)).headers["content-type"] == "image/png"


def test_08_fields_of_ours(client: Client, quick: Served) -> None:
    own = {"seed": 9, "steps": 3, "guidance_scale": 2.5, "sampler": "ddim", "negative_prompt": "red", "prior_steps": 2}
    name = client(lambda c: c.images.generate(prompt="a fox", extra_body=own)).data[0].id
    request = quick.get(f"/api/jobs/{name}").json()["request"]
    assert {field: request[field] for field in own} == own


def test_09_fields_that_mean_nothing_here_are_taken(client: Client) -> None:
    given: dict[str, Any] = {"user": "u", "moderation": "low", "background": "opaque", "style": None}
    assert client(lambda c: c.images.generate(prompt="a fox", **given)).data


def test_10_fields_that_are_null_are_as_if_they_were_not_there(quick: Served) -> None:
    body = {"prompt": "a fox", "n": None, "size": None, "seed": None, "quality": None, "stream": None}
    assert quick.send("POST", "/v1/images/generations", json=body).status_code == 200


# Streams.


@pytest.mark.parametrize("partial", [0, 1])
def test_11_a_stream_has_events_in_order(client: Client, partial: int) -> None:
    events = client(lambda c: c.images.generate(prompt="a fox", stream=True, partial_images=partial))
    assert [one.type for one in events] == ["image_generation.partial_image"] * partial + ["image_generation.completed"]
    assert events[-1].usage.output_tokens == 0
    for one in events:
        assert (one.background, one.output_format, one.quality) == ("opaque", "png", "auto")
        assert opened(one).size


def test_11_what_is_told_before_anybody_listens_is_in_the_stream(
    quick: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the image is done before whoever asked for it goes on."""
    service: Service = quick.app.state.service
    submit = service.submit

    async def drawn_at_once(*given: Any, **named: Any) -> list[str]:
        names = await submit(*given, **named)
        while (await service.job(names[0])).state not in ENDED:
            await asyncio.sleep(0.01)
        return names

    monkeypatch.setattr(service, "submit", drawn_at_once)
    assert streamed(quick) == ["image_generation.partial_image", "image_generation.completed"]
    assert not service._from_the_start


def test_11_what_is_told_before_a_job_has_a_name_is_in_the_stream(
    quick: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a worker is faster than whoever queues."""
    drawing = threading.Event()

    def slowly(*given: Any, **named: Any) -> Any:
        found = enqueued(*given, **named)
        drawing.wait(1)  # it is not heard before this returns
        return found

    def preview(worker: Instant, db: Any, job: Any) -> None:
        end(worker, db, job)
        drawing.set()

    end = Instant._end
    monkeypatch.setattr(Instant, "_end", preview)
    monkeypatch.setattr("kandinsky.server.service.enqueued", slowly)
    assert streamed(quick) == ["image_generation.partial_image", "image_generation.completed"]


def streamed(quick: Served) -> list[str]:
    """The kinds of the events of a stream with a preview."""
    body = {"prompt": "a fox", "stream": True, "partial_images": 1}
    text = quick.send("POST", "/v1/images/generations", json=body).text
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


def test_12_several_images_are_several_ends(client: Client) -> None:
    events = client(lambda c: c.images.generate(prompt="a fox", stream=True, n=3, extra_body={"seed": 1}))
    assert [one.seed for one in events if one.type.endswith("completed")] == [1, 2, 3]


def test_13_a_stream_that_fails_raises(client: Client) -> None:
    with pytest.raises(openai.APIError) as caught:
        client(lambda c: c.images.generate(prompt="too large", stream=True))
    assert caught.value.code == "out_of_memory"
    assert "memory" in caught.value.message


def test_14_a_stream_of_an_edit(client: Client) -> None:
    events = client(lambda c: c.images.edit(image=png(), prompt="a fox", stream=True, partial_images=1))
    assert [one.type for one in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_15_a_stream_has_no_ids_and_ends_whole(quick: Served) -> None:
    answer = quick.send("POST", "/v1/images/generations", json={"prompt": "a", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "id:" not in answer.text
    assert answer.text.endswith("\n\n")


# Edits and variations.


@pytest.mark.parametrize(
    "image",
    [
        png,
        lambda: io.BytesIO(png()),
        lambda: ("a.png", png(), "image/png"),
        lambda: ("upload", png(), "application/octet-stream"),
        lambda: ("a.exe", png(), "text/html"),
        lambda: [png()],
        lambda: [("a", png())],
    ],
)
def test_16_images_however_they_come(client: Client, image: Callable[[], Any]) -> None:
    assert client(lambda c: c.images.edit(image=image(), prompt="a fox")).data


def test_17_a_mask(client: Client, quick: Served) -> None:
    mask = png((64, 64), (0, 0, 0, 0))
    name = client(lambda c: c.images.edit(image=png(), mask=mask, prompt="a fox")).data[0].id
    assert quick.get(f"/api/jobs/{name}").json()["request"]["mask"]


@pytest.mark.parametrize(("fidelity", "strength"), [("high", 0.35), ("low", 0.7), (None, 0.7)])
def test_18_fidelity_is_strength(client: Client, quick: Served, fidelity: Any, strength: float) -> None:
    given = {} if fidelity is None else {"input_fidelity": fidelity}
    name = client(lambda c: c.images.edit(image=png(), prompt="a fox", **given)).data[0].id
    assert quick.get(f"/api/jobs/{name}").json()["request"]["strength"] == strength


@pytest.mark.parametrize("other", ["mask", "strength", "outpaint"])
def test_18_fidelity_acts_or_is_an_error(client: Client, other: str) -> None:
    """Where something else says how much is changed."""
    files = {"mask": png((64, 64), (0, 0, 0, 0))} if other == "mask" else {}
    own = {"strength": {"strength": 0.5}, "outpaint": {"outpaint": {"left": 8}}}.get(other, {})
    with pytest.raises(openai.BadRequestError, match=other) as raised:
        client(lambda c: c.images.edit(image=png(), prompt="a", input_fidelity="high", extra_body=own, **files))
    assert raised.value.param == "input_fidelity"


@pytest.mark.parametrize("margins", [{"left": 64, "bottom": 8}, "left=64,bottom=8"])
def test_18_an_edit_grows_by_margins(client: Client, quick: Served, margins: Any) -> None:
    own = {"outpaint": margins, "paste_back": True, "mask_blur": 2, "lora": {"few-step": 0.5}, "prompt_weights": True}
    name = client(lambda c: c.images.edit(image=png(), prompt="a fox", extra_body=own)).data[0].id
    job = quick.get(f"/api/jobs/{name}").json()
    request = job["request"]
    assert request["outpaint"] == {"left": 64, "top": 0, "right": 0, "bottom": 8}
    assert (request["strength"], request["width"], request["height"]) == (1.0, 128, 72)
    assert (request["paste_back"], request["mask_blur"], job["lora"]) == (True, 2, {"few-step": 0.5})
    address = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {"prompt": "a fox", "images": [{"image_url": address}], **own}
    name = client(lambda c: c.post("/images/edits", cast_to=object, body=body))["data"][0]["id"]
    assert quick.get(f"/api/jobs/{name}").json()["request"] == request | {"seed": ANY}
    with pytest.raises(openai.BadRequestError, match="outpaint"):
        client(lambda c: c.images.edit(image=png(), prompt="a fox", extra_body={"outpaint": {"north": 8}}))
    with pytest.raises(openai.BadRequestError, match="outpaint"):
        client(lambda c: c.images.edit(image=png(), prompt="a fox", extra_body={"outpaint": {"left": 0}}))


def test_19_edits_in_json_by_data_url_and_by_id(client: Client, quick: Served) -> None:
    file = client(lambda c: c.files.create(file=("a.png", png()), purpose="vision"))
    mask = client(lambda c: c.files.create(file=("m.png", png((64, 64), (0, 0, 0, 0))), purpose="user_data"))
    address = "data:image/png;base64," + base64.b64encode(png()).decode()
    for image in ({"file_id": file.id}, {"image_url": address}):
        body = {"prompt": "a fox", "images": [image], "mask": {"file_id": mask.id}, "seed": 2}
        found = client(lambda c, body=body: c.post("/images/edits", cast_to=object, body=body))
        assert found["data"][0]["seed"] == 2
    client(lambda c: c.files.delete(file.id))
    body = {"prompt": "a fox", "images": [{"file_id": file.id}]}
    with pytest.raises(openai.NotFoundError):
        client(lambda c: c.post("/images/edits", cast_to=object, body=body))


def test_20_variations(client: Client) -> None:
    found = client(lambda c: c.images.create_variation(image=png(), n=2, size="64x64", response_format="b64_json"))
    assert [opened(one).size for one in found.data] == [(64, 64)] * 2


# Models, files, batches.


def test_21_models(client: Client) -> None:
    (found,) = client(lambda c: c.models.list())
    assert client(lambda c: c.models.retrieve(found.id)).id == found.id
    with pytest.raises(openai.NotFoundError) as caught:
        client(lambda c: c.models.retrieve("a/b"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_22_files(client: Client) -> None:
    file = client(lambda c: c.files.create(file=("a.bin", b"\0" * 70_000), purpose="user_data"))
    assert (file.bytes, file.purpose, file.object) == (70_000, "user_data", "file")
    assert client(lambda c: c.files.content(file.id)).content == b"\0" * 70_000
    assert client(lambda c: c.files.retrieve(file.id)).id == file.id
    assert client(lambda c: c.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        client(lambda c: c.files.retrieve(file.id))


@pytest.mark.parametrize("endpoint", ["/v1/images/generations", "/v1/images/edits"])
def test_23_batches(client: Client, endpoint: Any) -> None:
    image = {"image_url": "data:image/png;base64," + base64.b64encode(png()).decode()}
    more = {"images": [image]} if endpoint.endswith("edits") else {}
    body = {"prompt": "a fox", "seed": 4} | more
    line = json.dumps({"custom_id": "one", "method": "POST", "url": endpoint, "body": body})
    file = client(lambda c: c.files.create(file=("in.jsonl", line.encode()), purpose="batch"))
    batch = client(lambda c: c.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h"))
    deadline = time.monotonic() + 60
    while batch.status not in ("completed", "failed"):
        assert time.monotonic() < deadline
        batch = client(lambda c, name=batch.id: c.batches.retrieve(name))
    answer = json.loads(client(lambda c: c.files.content(batch.output_file_id)).text)
    assert answer["response"]["body"]["data"][0]["seed"] == 4


# Errors.


@pytest.mark.parametrize(
    ("call", "kind_", "param", "code"),
    [
        (lambda c: c.images.generate(prompt=""), openai.BadRequestError, "prompt", "invalid_value"),
        (lambda c: c.images.generate(prompt="a", n=11), openai.BadRequestError, "n", "invalid_value"),
        (lambda c: c.images.generate(prompt="a", size="1x1"), openai.BadRequestError, "size", "invalid_value"),
        (lambda c: c.images.generate(prompt="a", model="x/y"), openai.NotFoundError, "model", "model_not_found"),
        (
            lambda c: c.images.generate(prompt="a", extra_body={"x": 1}),
            openai.BadRequestError,
            "x",
            "unknown_parameter",
        ),
        (
            lambda c: c.images.generate(prompt="a", extra_body={"x": None}),
            openai.BadRequestError,
            "x",
            "unknown_parameter",
        ),
        (lambda c: c.images.generate(prompt="a", background="transparent"), openai.BadRequestError, "background", None),
        (lambda c: c.images.generate(prompt="a", output_format="gif"), openai.BadRequestError, "output_format", None),
        (lambda c: c.images.generate(prompt="a", partial_images=1), openai.BadRequestError, "partial_images", None),
        (lambda c: c.images.edit(image=b"x", prompt="a"), openai.BadRequestError, "image", "invalid_image"),
        (lambda c: c.images.edit(image=png(), mask=png(), prompt="a"), openai.BadRequestError, "mask", None),
        (lambda c: c.images.edit(image=[png(), png()], prompt="a"), openai.BadRequestError, "image", None),
        (lambda c: c.images.create_variation(image=png((4, 4))), openai.BadRequestError, "image", "image_size"),
        (lambda c: c.images.generate(prompt="too large"), openai.InternalServerError, None, "out_of_memory"),
        (lambda c: c.files.create(file=b"x", purpose="fine-tune"), openai.BadRequestError, "purpose", "invalid_value"),
        (lambda c: c.batches.retrieve("batch_x"), openai.NotFoundError, "id", "not_found"),
    ],
)
def test_25_errors_have_their_class_and_fields(
    client: Client, call: Callable[[Any], Any], kind_: type[openai.APIStatusError], param: str | None, code: str | None
) -> None:
    with pytest.raises(kind_) as caught:
        client(call)
    error = caught.value
    assert error.param == param
    assert error.code == code or code is None
    assert error.type in ("invalid_request_error", "not_found_error", "server_error")
    assert error.request_id
    assert isinstance(error.body, dict)


@pytest.mark.parametrize("token", ["wrong-token-of-nobody", "sk-0"])
def test_25_a_wrong_token(kind: str, quick: Served, token: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        Client(kind, quick, token)(lambda c: c.models.list())
    assert caught.value.code == "invalid_api_key"


def test_26_a_full_queue_says_when_to_come_again(kind: str, tmp_path: Any) -> None:
    with served(tmp_path, most_queued=3) as small, pytest.raises(openai.RateLimitError) as caught:
        Client(kind, small)(lambda c: c.images.generate(prompt="a", n=4))
    assert (caught.value.code, caught.value.type) == ("queue_full", "rate_limit_error")
    assert caught.value.response.headers["retry-after"] == "30"


def test_27_what_cannot_be_better_is_not_tried_again(kind: str, quick: Served) -> None:
    def tries() -> int:
        return len(quick.get("/api/jobs?text=too large&limit=200").json()["jobs"])

    before = tries()
    with pytest.raises(openai.InternalServerError) as caught:
        Client(kind, quick, max_retries=5)(lambda c: c.images.generate(prompt="too large"))
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert tries() == before + 1


# Who goes away, and who comes again.


def test_28_a_client_that_gives_up_takes_its_work_along(kind: str, quick: Served) -> None:
    prompt, deadline = f"{HELD} of {kind}", time.monotonic() + 60

    def states_without(*waited_for: str) -> list[str]:
        while True:
            jobs = quick.get(f"/api/jobs?text={prompt}&limit=5").json()["jobs"]
            states = [str(job["state"]) for job in jobs]
            if len(states) == 5 and not set(states) & set(waited_for):
                return states
            assert time.monotonic() < deadline, states
            time.sleep(0.05)

    RELEASED.clear()
    try:
        with pytest.raises(openai.APITimeoutError):
            Client(kind, quick, timeout=2)(lambda c: c.images.generate(prompt=prompt, n=5))
        # One may be being drawn, and who draws it hears of the end when it is released.
        assert states_without("queued").count("cancelled") >= 4
    finally:
        RELEASED.set()
    assert states_without("queued", "running").count("cancelled") >= 4


def test_29_a_retry_with_a_key_does_not_double_the_work(kind: str, quick: Served) -> None:
    key = {"idempotency-key": f"once-{kind}"}
    given: dict[str, Any] = {"prompt": SLOW, "extra_headers": key, "extra_body": {"negative_prompt": kind}}
    with pytest.raises(openai.APITimeoutError):
        Client(kind, quick, timeout=0.2)(lambda c: c.images.generate(**given))
    first = Client(kind, quick)(lambda c: c.images.generate(**given)).data[0]
    again = Client(kind, quick)(lambda c: c.images.generate(**given)).data[0]
    assert (first.id, first.seed, first.b64_json) == (again.id, again.seed, again.b64_json)
    jobs = quick.get(f"/api/jobs?text={SLOW}&limit=200").json()["jobs"]
    same = [job for job in jobs if job["request"]["negative_prompt"] == kind]
    assert [job["state"] for job in same] == ["done"]


def test_30_a_key_is_of_one_request_and_one_owner(kind: str, quick: Served) -> None:
    key = {"idempotency-key": f"other-{kind}"}
    first = Client(kind, quick)(lambda c: c.images.generate(prompt="a", extra_headers=key)).data[0]
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        Client(kind, quick)(lambda c: c.images.generate(prompt="b", extra_headers=key))
    assert caught.value.code == "idempotency_key_reused"
    other = Client(kind, quick, TOKENS["bob"])(lambda c: c.images.generate(prompt="a", extra_headers=key)).data[0]
    assert first.id != other.id


def test_31_two_at_once_with_a_key_are_one(quick: Served) -> None:
    found: list[Any] = []

    def ask() -> None:
        body = {"prompt": SLOW, "seed": 77}
        answer = httpx2.post(
            f"{quick.url}/v1/images/generations",
            json=body,
            headers={"authorization": f"Bearer {TOKENS['ada']}", "idempotency-key": "two-at-once"},
            timeout=60,
        )
        found.append((answer.status_code, answer.json()["data"][0]["id"]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(found)) == 1
    assert found[0][0] == 200


def test_32_the_client_is_told_the_number_of_its_request(client: Client) -> None:
    numbers = {client(lambda c: c.images.generate(prompt="a"))._request_id for _ in range(2)}
    assert len(numbers) == 2
