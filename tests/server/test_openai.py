"""The official client against a running server."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

import kandinsky
from tests.server.conftest import TOKENS, Running

QUICK = {"extra_body": {"steps": 2, "prior_steps": 1, "seed": 5}}


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKENS["ada"], max_retries=0)


def image_of(datum: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


def png(size: tuple[int, int] = (64, 64), colour: tuple[int, ...] = (200, 30, 30)) -> bytes:
    made = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(made, "PNG")
    return made.getvalue()


def test_an_image_is_that_of_the_library(client: openai.OpenAI) -> None:
    found = client.images.generate(prompt="a fox", model="emoji", **QUICK)
    (datum,) = found.data or []
    assert datum.seed == 5  # type: ignore[attr-defined]
    expected = kandinsky.load(device="cpu").generate("a fox", steps=2, prior_steps=1, seed=5).images[0]
    assert np.abs(np.asarray(image_of(datum), int) - np.asarray(expected, int)).max() <= 1
    assert found.usage is not None
    assert (found.output_format, found.size) == ("png", "auto")


def test_several_images_have_seeds_of_their_own(client: openai.OpenAI) -> None:
    found = client.images.generate(prompt="a fox", n=3, size="64x48", **QUICK).data or []
    assert [one.seed for one in found] == [5, 6, 7]  # type: ignore[attr-defined]
    assert {image_of(one).size for one in found} == {(64, 48)}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client: openai.OpenAI, kind: Any) -> None:
    found = client.images.generate(prompt="a fox", output_format=kind, output_compression=60, **QUICK)
    assert image_of((found.data or [])[0]).format == kind.upper()


def test_an_address_is_one_that_gives_the_image(client: openai.OpenAI, server: Running) -> None:
    (datum,) = client.images.generate(prompt="a fox", response_format="url", **QUICK).data or []
    assert datum.url is not None
    path = datum.url.removeprefix(server.url)
    answer = server.get(path)
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert server.get(path, "bob").status_code == 404


def test_a_stream_shows_partial_images(client: openai.OpenAI) -> None:
    body = {"extra_body": {"steps": 8, "prior_steps": 1, "seed": 5}}
    events = list(client.images.generate(prompt="a fox", stream=True, partial_images=3, **body))  # type: ignore[call-overload]
    assert [one.type for one in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [one.partial_image_index for one in events[:3]] == [0, 1, 2]
    assert all(image_of(one).size[0] <= 64 for one in events)
    assert events[-1].usage.total_tokens == 0
    plain = client.images.generate(prompt="a fox", **body)  # type: ignore[call-overload]
    assert image_of(events[-1]).tobytes() == image_of(plain.data[0]).tobytes()


def test_edits(client: openai.OpenAI) -> None:
    image = ("x.png", png(), "image/png")
    (datum,) = client.images.edit(image=image, prompt="a fox", input_fidelity="high", **QUICK).data or []
    near = np.asarray(image_of(datum), int)
    assert near.shape == (64, 64, 3)
    mask = np.zeros((64, 64, 4), np.uint8)
    mask[:, :32, 3] = 255
    made = io.BytesIO()
    Image.fromarray(mask).save(made, "PNG")
    (datum,) = client.images.edit(image=[image], mask=made.getvalue(), prompt="a fox", **QUICK).data or []
    found = np.asarray(image_of(datum), int)
    assert np.abs(found[:, :20] - (200, 30, 30)).mean() < np.abs(found[:, 44:] - (200, 30, 30)).mean()
    events = list(client.images.edit(image=io.BytesIO(png()), prompt="a fox", stream=True, **QUICK))
    assert [one.type for one in events] == ["image_edit.completed"]


def test_variations(client: openai.OpenAI) -> None:
    (datum,) = client.images.create_variation(image=png(), n=1, extra_body={"steps": 2, "seed": 1}).data or []
    assert image_of(datum).size == (64, 64)


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["emoji"]
    assert client.models.retrieve("emoji").owned_by == "kandinsky"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("kandinsky-community/kandinsky-2-2-decoder")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 11}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "9999x9999"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"partial_images": 2}, "partial_images"),
        ({"style": "vivid"}, "style"),
        ({"frame_count": 4}, "frame_count"),
        ({"extra_body": {"sampler": "eulr"}}, "sampler"),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"strength": 0.5}}, "strength"),
        ({"extra_body": {"seed": "5"}}, "seed"),
        ({"extra_body": {"lora": "x"}}, "lora"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
    ],
)
def test_what_cannot_be_names_its_field(client: openai.OpenAI, given: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "a fox", **given})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.images.edit(image=b"none", prompt="a"),
        lambda client: client.images.edit(image=png((4, 4)), prompt="a"),
        lambda client: client.images.edit(image=[png(), png()], prompt="a"),
        lambda client: client.images.edit(image=png(), mask=png((32, 32), (0, 0, 0, 0)), prompt="a"),
        lambda client: client.images.edit(image=png(), mask=png(), prompt="a"),
        lambda client: client.images.edit(image=png(), mask=png(colour=(0, 0, 0, 255)), prompt="a"),
    ],
)
def test_images_that_cannot_be_edited(client: openai.OpenAI, send: Callable[[openai.OpenAI], Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        send(client)


def test_a_wrong_token_is_refused(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


@pytest.mark.anyio
async def test_the_client_without_threads(server: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=TOKENS["bob"], max_retries=0) as client:
        found = await client.images.generate(prompt="a house", **QUICK)
        assert len(found.data or []) == 1
        stream = await client.images.generate(prompt="a house", stream=True, **QUICK)
        assert [one.type async for one in stream] == ["image_generation.completed"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
