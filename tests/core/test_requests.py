"""What may be asked, what may not, and that a stored request is the same request."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kandinsky.core.errors import RequestError
from kandinsky.core.images import Picture
from kandinsky.core.metadata import single
from kandinsky.core.requests import LARGEST_SEED, Embedding, Mix, Request, mix

DEFAULTS: dict[str, Any] = {
    "width": 64,
    "height": 64,
    "steps": 25,
    "guidance_scale": 4.0,
    "prior_steps": 20,
    "prior_guidance_scale": 3.0,
    "sampler": "ddpm",
    "eta": 0.0,
    "strength": 0.3,
}


def draw_image(width: int = 12, height: int = 10, shade: int = 90) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), shade, np.uint8))


def half_mask(width: int = 12, height: int = 10) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


BAD = {
    "no prompts": ({"prompt": []}, "empty"),
    "prompt is a number": ({"prompt": 7}, "int"),
    "no prompt": ({"prompt": None}, "A prompt is None"),
    "prompt holds None": ({"prompt": ["a", None]}, "A prompt is None"),
    "width 0": ({"width": 0}, "width 0 "),
    "height a million": ({"height": 10**6}, "height 1000000 "),
    "width is text": ({"width": "64"}, "width .*'64'"),
    "width is true": ({"width": True}, "width .*True"),
    "width is fractional": ({"width": 64.5}, "width .*64.5"),
    "steps 0": ({"steps": 0}, "steps 0 "),
    "steps 1001": ({"steps": 1001}, "steps 1001 "),
    "prior steps -1": ({"prior_steps": -1}, "prior_steps -1 "),
    "count 0": ({"count": 0}, "count 0 "),
    "seed -1": ({"seed": -1}, "seed -1 "),
    "seed 2^64": ({"seed": 2**64}, "seed 18446744073709551616 "),
    "no seeds left": ({"seed": LARGEST_SEED, "count": 2}, "leaves no seeds"),
    "guidance -1": ({"guidance_scale": -1}, "guidance_scale -1 "),
    "guidance nan": ({"guidance_scale": float("nan")}, "guidance_scale nan "),
    "prior guidance inf": ({"prior_guidance_scale": float("inf")}, "prior_guidance_scale inf "),
    "eta 2": ({"eta": 2}, "eta 2 "),
    "sampler 3": ({"sampler": 3}, "sampler .*3"),
    "strength 1.5": ({"image": draw_image(), "strength": 1.5}, "strength 1.5 "),
    "strength 0": ({"image": draw_image(), "strength": 0}, "strength 0 "),
    "strength alone": ({"strength": 0.5}, "without an image"),
    "mask alone": ({"mask": half_mask()}, "without an image"),
    "mask of another size": ({"image": draw_image(), "mask": half_mask(12, 11)}, "12 x 11.*12 x 10"),
    "mask marks nothing": ({"image": draw_image(), "mask": np.zeros((10, 12))}, "nothing to repaint"),
    "image is a number": ({"image": 3}, "int is not an image"),
    "image is a list of lists": ({"image": [[1, 2]]}, "list is not an image"),
    "too many negatives": ({"negative_prompt": ["a", "b"]}, "2 entries for 1 prompts"),
    "negative is a number": ({"negative_prompt": 3}, "negative_prompt .*3"),
    "too few images": ({"prompt": ["a", "b"], "image": [draw_image()]}, "1 entries for 2 prompts"),
    "misspelt": ({"stepz": 3}, "stepz.*Did you mean 'steps'"),
    "too many images": ({"prompt": ["a"] * 200, "count": 100}, "20000 images"),
    "an array of one whole number": ({"width": np.array([64])}, "width must be a whole number"),
    "an array that holds true": ({"width": np.array(True)}, "width must be a whole number, not True"),
    "interval is a set": ({"guidance_interval": {0.1, 0.8}}, "must be two numbers, not a set"),
    "interval is a range": ({"guidance_interval": range(2)}, "must be two numbers, not a range"),
    "interval is an iterator": ({"guidance_interval": iter((0.1, 0.8))}, "two numbers, not a tuple_iterator"),
    "interval is a tensor": ({"guidance_interval": torch.tensor([0.1, 0.8])}, "two numbers, not a Tensor"),
    "interval is a dict": ({"guidance_interval": {0.1: 1, 0.8: 2}}, "must be two numbers, not a dict"),
    "interval begins nowhere": ({"guidance_interval": (None, 0.5)}, r"be two numbers, not \(None, 0\.5\)\."),
    "interval has one end": ({"guidance_interval": [0.5]}, r"must be two numbers, not \(0\.5\)\."),
    "interval has four ends": ({"guidance_interval": (0, 1, 2, 3)}, r"not \(0, 1, 2, \.\.\.\)\."),
    "sampler is empty": ({"sampler": ""}, r"sampler must be a name, not ''\."),
    "sampler is no text": ({"sampler": "\ud800"}, r"sampler must be valid text, not '\\ud800'\."),
    "seed is None for one": ({"prompt": ["a", "b"], "seed": [1, None]}, r"seed cannot be None\."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_name_the_value(name: str) -> None:
    fields, words = BAD[name]
    with pytest.raises(RequestError, match=words) as caught:
        Request(**({"prompt": "a fox"} | fields))
    assert caught.value.hint.endswith((".", "?"))


LONG: dict[str, tuple[str, object, str]] = {
    "no float": ("strength", 10**400, f"strength must be a number, not 1{'0' * 56}...."),
    "100 digits": ("steps", 10**100, f"steps 1{'0' * 56}... is outside 1 to 1000."),
    "5000 digits": ("steps", 10**5000, "steps (too long to show) is outside 1 to 1000."),
    "5000 digits of a seed": ("seed", 10**5000, "seed (too long to show) is outside 0 to 18446744073709551615."),
    "5000 digits below 0": ("eta", -(10**5000), "eta must be a number, not (too long to show)."),
    "5000 digits for text": ("negative_prompt", 10**5000, "negative_prompt must be text, not (too long to"),
    "text": ("width", "x" * 10**6, f"width must be a whole number, not '{'x' * 56}...."),
}


@pytest.mark.parametrize("name", LONG)
def test_long_values_are_cut(name: str) -> None:
    field, value, said = LONG[name]
    with pytest.raises(RequestError) as caught:
        Request("a", **{field: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) < 200


def test_strength_alone_is_told_what_is_missing() -> None:
    with pytest.raises(RequestError) as caught:
        Request("a", strength=0.5)
    assert caught.value.hint == "Give the image to change."


def test_the_prompt_is_not_offered_as_an_option() -> None:
    with pytest.raises(RequestError) as caught:
        Request("a", promt="b")  # type: ignore[call-arg]
    assert caught.value.hint.startswith("Known: count, eta, ")
    assert " prompt," not in caught.value.hint


def test_limits_themselves_are_allowed() -> None:
    limits = {"width": 8, "height": 8192, "steps": 1, "prior_steps": 1000, "seed": LARGEST_SEED}
    request = Request("a", guidance_scale=0, **limits)
    assert {name: getattr(request, name) for name in limits} == limits
    request = Request("a", image=draw_image(), strength=1, eta=1)
    assert (request.strength, request.eta) == (1, 1)


def test_numpy_numbers_are_numbers() -> None:
    request = Request("a", width=np.int64(64), guidance_scale=np.float32(2), seed=np.uint8(3))
    assert (request.width, request.guidance_scale, request.seed) == (64, 2.0, 3)
    assert type(request.width) is int


@pytest.mark.parametrize("holds", [np.array, torch.tensor])
def test_numbers_in_arrays_without_axes_are_numbers(holds: Any) -> None:
    request = Request("a", width=holds(64), seed=[holds(3)], guidance_scale=holds(2.5), eta=holds(1))
    assert (request.width, request.seed, request.guidance_scale, request.eta) == (64, (3,), 2.5, 1.0)
    assert type(request.width) is int
    assert Request("a", guidance_interval=[holds(0.25), 0.5]).guidance_interval == (0.25, 0.5)  # type: ignore[arg-type]


def test_rows_follow_prompts_then_count() -> None:
    request = Request(["a", "b"], negative_prompt=["x", None], image=draw_image(), count=2, seed=5)
    rows = [(row.prompt, row.negative_prompt, row.seed) for row in request.rows()]
    assert rows == [("a", "x", 5), ("a", "x", 6), ("b", None, 7), ("b", None, 8)]
    assert all(row.image == request.image for row in request.rows())


def test_rows_need_a_seed() -> None:
    with pytest.raises(ValueError, match="no seed"):
        Request("a").rows()


def test_filled_keeps_what_was_given() -> None:
    filled = Request("a", steps=3, guidance_scale=0).filled(DEFAULTS)
    assert (filled.steps, filled.guidance_scale, filled.sampler) == (3, 0.0, "ddpm")
    assert filled.strength is None, "strength means nothing without an image"
    assert filled.seed is not None
    assert filled.filled(DEFAULTS | {"steps": 99}) == filled


def test_random_seeds_differ() -> None:
    assert len({Request("a").filled(DEFAULTS).seed for _ in range(8)}) > 1


def test_filled_strength_depends_on_the_mask() -> None:
    assert Request("a", image=draw_image()).filled(DEFAULTS).strength == 0.3
    assert Request("a", image=draw_image(), mask=half_mask()).filled(DEFAULTS).strength == 1.0
    assert Request("a", image=draw_image(), mask=half_mask(), strength=0.5).filled(DEFAULTS).strength == 0.5


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        ((500, 500), {}, (64, 64)),
        ((200, 100), {}, (96, 48)),
        ((200, 100), {"width": 40}, (40, 24)),
        ((200, 100), {"height": 40}, (80, 40)),
        ((200, 100), {"width": 30, "height": 50}, (30, 50)),
        ((4000, 1), {}, (4048, 8)),
        ((88, 99), {"width": 100}, (100, 112)),
        ((99, 88), {"height": 100}, (112, 100)),
    ],
)
def test_filled_size_takes_the_image_shape(
    size: tuple[int, int], asked: dict[str, int], expected: tuple[int, int]
) -> None:
    filled = Request("a", image=draw_image(*size), **asked).filled(DEFAULTS)  # type: ignore[arg-type]
    assert (filled.width, filled.height) == expected


def test_filled_refuses_defaults_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="stepz"):
        Request("a").filled(DEFAULTS | {"stepz": 2})
    with pytest.raises(ValueError, match="no 'prompt'"):
        Request("a").filled(DEFAULTS | {"prompt": "b"})


@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2**64 - 10),
    st.one_of(st.none(), st.text(max_size=5)),
    st.floats(0, 30),
)
def test_stored_requests_are_the_same(
    prompts: list[str], count: int, seed: int, negative: str | None, scale: float
) -> None:
    request = Request(prompts, count=count, seed=seed, negative_prompt=negative, guidance_scale=scale)
    request = request.filled(DEFAULTS)
    stored = json.loads(json.dumps(request.to_json()))
    assert Request.from_json(stored) == request
    for index, row in enumerate(request.rows()):
        assert Request.from_json(single(stored, index)).rows() == [row]


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_numbers_of_their_own_for_each_prompt(data: st.DataObject, prompts: int, count: int) -> None:
    def each(values: st.SearchStrategy[Any]) -> Any:
        return data.draw(values | st.lists(values, min_size=prompts, max_size=prompts))

    scales = st.none() | st.floats(0, 9)
    fields = {"guidance_scale": each(scales), "prior_guidance_scale": each(scales)}
    seed = each(st.integers(0, 100))
    texts = [f"prompt {index}" for index in range(prompts)]
    request = Request(texts, count=count, seed=seed, **fields)
    defaults = DEFAULTS | {"guidance_scale": 4.5, "prior_guidance_scale": 1.5}
    filled = request.filled(defaults)
    stored = json.loads(json.dumps(filled.to_json()))
    assert Request.from_json(stored) == filled
    for index, row in enumerate(filled.rows()):
        place, copy = divmod(index, count)
        assert row.prompt == texts[place]
        assert row.seed == (seed[place] + copy if isinstance(seed, list) else seed + index)
        for name, given_value in fields.items():
            own = given_value[place] if isinstance(given_value, list) else given_value
            assert getattr(row, name) == (defaults[name] if own is None else own)
        assert Request.from_json(single(stored, index)).rows() == [row]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guidance_scale": [1.0]}, "guidance_scale has 1 entries for 2 prompts"),
        ({"guidance_scale": [1.0, -1]}, "guidance_scale -1 is not 0 or more"),
        ({"prior_guidance_scale": [1.0, "3"]}, "prior_guidance_scale must be a number, not '3'"),
        ({"seed": [1, 2, 3]}, "seed has 3 entries for 2 prompts"),
        ({"seed": [1, None]}, "seed cannot be"),
        ({"seed": [1, 2.5]}, r"seed must be a whole number, not 2\.5"),
        ({"seed": [0, 2**64 - 1], "count": 2}, "leaves no seeds"),
    ],
)
def test_bad_lists_of_numbers_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Request(["a", "b"], **fields)


def test_mixes_and_embeddings_are_stored_whole() -> None:
    vector = torch.randn(5, generator=torch.Generator().manual_seed(0))
    embedding = Embedding(vector, negative=vector.double() / 3)
    request = Request([mix(["a", embedding], [0.25, 0.75]), embedding], seed=1)
    back = Request.from_json(json.loads(json.dumps(request.to_json())))
    assert back == request
    assert torch.equal(torch.tensor(back.prompts[1].values), vector)  # type: ignore[union-attr]


def test_images_are_found_again_and_verified(tmp_path: Path) -> None:
    file = tmp_path / "in.png"
    draw_image().save(file)
    request = Request(mix([file, "a"]), image=str(file), mask=half_mask(), seed=1)
    stored = json.loads(json.dumps(request.to_json()))
    with pytest.raises(RequestError, match="given in memory"):
        Request.from_json(stored)
    assert Request.from_json(stored, mask=half_mask()) == request

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    file.rename(moved / "in.png")
    with pytest.raises(RequestError, match=r"in\.png is missing"):
        Request.from_json(stored, mask=half_mask())
    assert Request.from_json(stored, moved, mask=half_mask()) == request

    draw_image(shade=91).save(moved / "in.png")
    with pytest.raises(RequestError, match="changed"):
        Request.from_json(stored, moved, mask=half_mask())


@pytest.mark.parametrize(
    "data", [{}, {"prompt": 3}, {"prompt": {"mix": [{"mix": ["a"], "weights": [1]}], "weights": [1]}}]
)
def test_damaged_stores_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Request.from_json(data)


def test_an_image_as_prompt_is_a_variation() -> None:
    prompt = Request(draw_image()).prompts[0]
    assert isinstance(prompt, Mix)
    assert isinstance(prompt.items[0], Picture)
    assert prompt.weights == (1.0,)
    assert Request(torch.ones(4)).prompts == (Embedding((1.0,) * 4),)


def test_equal_weights_by_default() -> None:
    assert mix(["a", "b", "c", "d"]).weights == (0.25,) * 4


def test_a_mix_by_its_class_is_the_same() -> None:
    """Its items are read as those of `mix` are: an image as it came would be met by nothing that draws."""
    image = Image.new("RGB", (8, 8), "red")
    assert Mix([image, "a"], [0.5, 0.5]) == mix([image, "a"])  # type: ignore[arg-type]
    for items, weights in ((3, [1.0]), ([3], [1.0]), (["a"], 1.0), (["a"], ["b"])):
        with pytest.raises(RequestError):
            Mix(items, weights)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "weights", "words"),
    [
        ([], None, "nothing to mix"),
        ("text", None, "not a list"),
        (["a"], [0.5, 0.5], "1 items .* 2 weights"),
        (["a"], [float("nan")], "nan"),
        (["a", "b"], [1, float("inf")], "inf"),
        (["a", "b"], [0, 0], "All mixing weights are 0"),
        (["a"], ["much"], "much"),
        (["a", 3], None, "int is not an image"),
        ([Path("no-such.png")], None, "no image no-such.png"),
    ],
)
def test_bad_mixes(items: Any, weights: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        mix(items, weights)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.zeros(2, 3), "2 x 3"),
        ([], "0"),
        ([1.0, float("nan")], "infinite"),
        ("abc", "str"),
        (torch.tensor(1.0), "one number"),
    ],
)
def test_bad_embeddings(values: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Embedding(values)


def test_negative_embedding_has_the_same_length() -> None:
    with pytest.raises(RequestError, match="3 numbers has a negative of 2"):
        Embedding([1, 2, 3], [1, 2])


def test_requests_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Request("a").steps = 3  # type: ignore[misc]
