"""Programs written for AUTOMATIC1111 draw here, or are told what there is not."""

import base64
import io
import json
import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky.core.prompt_weights import parse_weights
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.server.a1111_prompts import as_weights
from kandinsky.server.openai_models import SIZE
from kandinsky.server.openapi import numbers
from kandinsky.server.settings import LONGEST_SIDE, SHORTEST_SIDE
from tests.server.conftest import Running
from tests.server.test_openai import png

QUICK = {"prompt": "a fox", "steps": 2, "seed": 4, "sampler_name": "ddim", "cfg_scale": 3}


def ask(server: Running, name: str, **given: Any) -> Any:
    return server.send("POST", f"/sdapi/v1/{name}", json=given)


def images_of(answer: Any) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in answer.json()["images"]]


def test_a_prompt_is_drawn_and_its_file_read_back(server: Running) -> None:
    answer = ask(server, "txt2img", **QUICK, width=64, height=48, batch_size=2, restore_faces=False, enable_hr=False)
    found = images_of(answer)
    assert [one.size for one in found] == [(64, 48)] * 2
    info = json.loads(answer.json()["info"])
    assert info["all_seeds"] == [4, 5]
    said = ask(server, "png-info", image=answer.json()["images"][1]).json()
    assert (said["parameters"]["seed"], said["parameters"]["sampler"]) == (5, "ddim")
    assert "Steps: 2" in said["info"]
    assert ask(server, "png-info", image=base64.b64encode(png()).decode()).json()["info"] == ""


def test_an_image_is_changed_where_the_mask_is_white(server: Running) -> None:
    image = base64.b64encode(png()).decode()
    (whole,) = images_of(ask(server, "img2img", **QUICK, init_images=[image], denoising_strength=0.5))
    assert whole.size == (64, 64)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    made = io.BytesIO()
    mask.save(made, "PNG")
    shown = "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()
    (part,) = images_of(ask(server, "img2img", **QUICK, init_images=[image], mask=shown))
    away = np.abs(np.asarray(part, int) - (200, 30, 30)).mean(axis=(0, 2))
    assert away[:20].mean() < away[44:].mean()


def test_adapters_are_named_in_the_prompt(server: Running) -> None:
    plain = images_of(ask(server, "txt2img", **QUICK))
    (with_it,) = images_of(ask(server, "txt2img", **QUICK | {"prompt": "a fox <lora:few-step:0.5>"}))
    assert with_it.tobytes() != plain[0].tobytes()
    (job, *_) = server.get("/api/jobs?text=fox&limit=1").json()["jobs"]
    assert (job["lora"], job["request"]["prompt"]) == ({"few-step": 0.5}, "a fox")


def test_what_is_interrupted_says_so(server: Running) -> None:
    """And /progress tells of it meanwhile."""
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(ask(server, "txt2img", **QUICK | {"steps": 900})))
    asking.start()
    deadline = time.monotonic() + 60
    while (said := server.get("/sdapi/v1/progress").json())["state"]["sampling_steps"] != 900:  # the prior comes first
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert said["state"]["job_count"] == 1
    assert 0 < said["progress"] < 1
    assert said["eta_relative"] > 0
    assert ask(server, "interrupt").status_code == 200
    asking.join(60)
    assert (found[0].status_code, found[0].json()["error"]["code"]) == (409, "cancelled")


def test_what_there_is(server: Running) -> None:
    get = lambda name: server.get(f"/sdapi/v1/{name}").json()  # noqa: E731
    assert [one["name"] for one in get("samplers")] == list(SAMPLERS)
    assert [one["title"] for one in get("sd-models")] == ["emoji"]
    assert [one["name"] for one in get("loras")] == ["few-step"]
    assert get("options") == {"sd_model_checkpoint": "emoji"}
    assert get("progress")["progress"] == 0.0
    assert ask(server, "options", sd_model_checkpoint="emoji").status_code == 200
    assert ask(server, "options", sd_model_checkpoint="other").status_code == 422
    assert ask(server, "options", colour=None).status_code == 422
    assert ask(server, "txt2img", prompt="a", colour=None).status_code == 422
    assert ask(server, "interrupt").status_code == 200


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"restore_faces": True}, "restore_faces"),
        ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
        ({"colour": 1}, "colour"),
        ({"batch_size": 99}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"sampler_name": "LMS"}, "LMS"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a <lyco:x:1>"}, "prompt"),
        ({"negative_prompt": "<lora:few-step:1>"}, "negative_prompt"),
        ({"prompt": "a <lora:nothing:1>"}, "nothing"),
        ({"batch_size": True}, "batch_size"),
        ({"enable_hr": 0.5}, "enable_hr"),
        ({"prompt": "a fox AND a house"}, "AND"),
        ({"prompt": "a fox BREAK a house"}, "BREAK"),
        ({"prompt": "a [fox:house:0.5]"}, "[from:to:when]"),
        ({"prompt": "a [fox|house]"}, "[one|other]"),
        ({"prompt": "a <hypernet:x:1>"}, "hypernet:x:1"),
        ({"prompt": "a <lora:few-step:1:2>"}, "lora:few-step:1:2"),
        ({"prompt": "a :) [fox|house] :("}, "[one|other]"),
        ({"prompt": "a (fox:1.2) [fox:0.5] :)"}, "[from:to:when]"),
        ({"prompt": "a (fox:20) :)"}, "-10 to 10"),
        ({"prompt": "(" * 65}, "64 brackets"),
        ({"negative_prompt": "[" * 65}, "negative_prompt"),
        ({"negative_prompt": "a AND b"}, "AND"),
        ({"width": 4104}, "width"),
        ({"height": 4}, "height"),
        ({"cfg_scale": "7"}, "cfg_scale"),
        ({"seed": -2}, "seed"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, "sd_model_checkpoint"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP_stop_at_last_layers"),
        ({"mask_blur": 4}, "mask_blur"),
        ({"init_images": []}, "init_images"),
        ({"sampler_index": "euler"}, "sampler_index"),
    ],
)
def test_what_there_is_not_is_named(server: Running, given: dict[str, Any], name: str) -> None:
    answer = ask(server, "txt2img", **{**QUICK, **given})
    assert answer.status_code in (400, 422)
    assert name in answer.json()["error"]["message"]


def request_of(server: Running) -> Any:
    (job, *_) = server.get("/api/jobs?limit=1").json()["jobs"]
    return job["request"]


def test_brackets_in_prompts_are_weights(server: Running) -> None:
    plain, strong, weak, escaped = (
        images_of(ask(server, "txt2img", **QUICK | {"prompt": text}))[0].tobytes()
        for text in ("a red fox", "a (red:1.6) fox", "a [[[red]]] fox", "a red \\(fox\\)")
    )
    assert len({plain, strong, weak, escaped}) == 4
    assert request_of(server)["prompt_weights"] is True
    assert images_of(ask(server, "txt2img", **QUICK | {"prompt": "a (red:1.0) fox"}))[0].tobytes() == plain
    given = QUICK | {
        "prompt": "a (red:1.6) fox <lora:few-step:0>",
        "override_settings": {"sd_model_checkpoint": "emoji"},
    }
    assert images_of(ask(server, "txt2img", **given))[0].tobytes() == strong


@pytest.mark.parametrize(
    "text", ["a fox :)", "(unbalanced", "unnecessary)(parens)", "(style: baroque)", "[a (b] c)", ""]
)
def test_brackets_that_are_not_in_pairs_are_read_as_there(server: Running, text: str) -> None:
    assert images_of(ask(server, "txt2img", **QUICK | {"prompt": f"a fox {text}", "negative_prompt": text}))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a fox :)", [("a fox :)", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("unnecessary)(parens)", [("unnecessary)", 1), ("parens", 1.1)]),
        ("(style: baroque)", [("style: baroque", 1.1)]),
        ("a [weak", [("a ", 1), ("weak", 0.909091)]),
        ("((a b", [("a b", 1.21)]),
        ("((a) b", [("a", 1.21), (" b", 1.1)]),
        ("(a [b) c] d", [("a ", 1.1), ("b", 1.0), (" c", 0.909091), (" d", 1)]),
        ("a:1.2)", [("a:1.2)", 1)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a: -.5 )", [("a", -0.5)]),
        ("(:1.3)", []),
        ("[a: b]", [("a: b", 0.909091)]),
        ("(a|b) c|d", [("a|b", 1.1), (" c|d", 1)]),
        ("[a|b", [("a|b", 0.909091)]),
        ("C:\\fox \\(a\\)", [("C:fox (a)", 1)]),
        ("]) :] \\\\", [("]) :] \\", 1)]),
    ],
)
def test_texts_are_written_with_brackets_in_pairs(text: str, pieces: list[tuple[str, float]]) -> None:
    found = parse_weights(as_weights(text, "prompt"))
    assert found.text == "".join(piece for piece, _ in pieces)
    assert found.weights == pytest.approx([weight for piece, weight in pieces for _ in piece], abs=2e-6)


@pytest.mark.parametrize("text", ["a (red:1.6) fox", "a [[[red]]] fox", "a red \\(fox\\)", "style: baroque", "((a)b)"])
def test_texts_that_are_read_alike_stay_as_they_are(text: str) -> None:
    assert as_weights(text, "prompt") == text


def test_texts_with_many_brackets_are_read_in_time() -> None:
    begun = time.process_time()
    for text in ("[a" * 60 + "b" * 31_000, "[a]" * 10_000, ":" * 32_000, "(: 1" * 64 + " " * 30_000, ")" * 32_000):
        as_weights(text, "prompt")
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("blur", [0, 4])
def test_a_masks_blur_decides_neither_the_size_nor_what_is_kept(server: Running, blur: int) -> None:
    made, cut = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (192, 144), (200, 30, 30)).save(made, "PNG")
    mask = Image.new("L", (192, 144))
    mask.paste(255, (144, 0, 192, 144))
    mask.save(cut, "PNG")
    image, shown = (base64.b64encode(one.getvalue()).decode() for one in (made, cut))
    given = {**QUICK, "init_images": [image], "mask": shown, "mask_blur": blur}
    (part,) = images_of(ask(server, "img2img", **given))
    assert part.size == (192, 144)
    assert set(part.crop((0, 0, 139, 144)).getdata()) == {(200, 30, 30)}
    (small,) = images_of(ask(server, "img2img", **given, width=96, height=72))
    assert small.size == (96, 72)
    assert set(small.crop((0, 0, 66, 72)).getdata()) == {(200, 30, 30)}


@pytest.mark.parametrize(("field", "value"), [("mask_blur", 8), ("inpainting_mask_invert", 1)])
def test_what_acts_on_a_mask_needs_one(server: Running, field: str, value: int) -> None:
    image = base64.b64encode(png()).decode()
    answer = ask(server, "img2img", **QUICK, init_images=[image], **{field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


def test_what_clients_send_by_default_needs_no_mask(server: Running) -> None:
    image = base64.b64encode(png()).decode()
    given = {"mask": None, "mask_blur": 4, "inpainting_mask_invert": 0}
    assert images_of(ask(server, "img2img", **QUICK, init_images=[image], **given))


def test_patterns_of_whole_numbers() -> None:
    for least, most in ((0, 0), (0, 9), (0, 10), (0, 137), (7, 7), (8, 250)):
        pattern = re.compile(numbers(least, most))
        assert [n for n in range(300) if pattern.fullmatch(str(n))] == list(range(least, most + 1))
        assert not pattern.fullmatch("00")
        assert not pattern.fullmatch("")


@pytest.mark.parametrize("blur", [0, 4])
def test_a_mask_leaves_the_rest_to_the_pixel(server: Running, blur: int) -> None:
    image = base64.b64encode(png()).decode()
    mask = Image.new("L", (64, 64))
    mask.paste(255, (48, 0, 64, 64))
    made = io.BytesIO()
    mask.save(made, "PNG")
    shown = base64.b64encode(made.getvalue()).decode()
    (part,) = images_of(ask(server, "img2img", **QUICK, init_images=[image], mask=shown, mask_blur=blur))
    assert {part.getpixel((x, y)) for x in range(40) for y in range(64)} == {(200, 30, 30)}
    given = {**QUICK, "init_images": [image], "mask": shown, "inpainting_mask_invert": 1, "mask_blur": blur}
    (part,) = images_of(ask(server, "img2img", **given))
    assert {part.getpixel((x, y)) for x in range(56, 64) for y in range(64)} == {(200, 30, 30)}


def test_a_strength_of_nothing_is_refused_in_words_that_are_so(server: Running) -> None:
    image = base64.b64encode(png()).decode()
    answer = ask(server, "img2img", **QUICK, init_images=[image], denoising_strength=0)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "denoising_strength: Input should be greater than 0."


@pytest.mark.parametrize("field", ["width", "height"])
def test_sides_are_bounded_alike_everywhere(server: Running, field: str) -> None:
    """As the sizes of the OpenAI API are."""
    schema = server.get("/openapi.json").json()["paths"]["/sdapi/v1/txt2img"]["post"]["requestBody"]
    side = schema["content"]["application/json"]["schema"]["properties"][field]["anyOf"][0]
    assert (side["minimum"], side["maximum"]) == (SHORTEST_SIDE, LONGEST_SIDE)
    sizes = re.compile(SIZE)
    assert all(bool(sizes.match(f"{n}x64")) == (SHORTEST_SIDE <= n <= LONGEST_SIDE) for n in range(5000))
