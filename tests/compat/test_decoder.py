"""The decoder pipelines against diffusers': same folder, same draws, same images."""

from collections.abc import Callable
from itertools import product
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.compat.diffusers import KandinskyV22InpaintPipeline, KandinskyV22Pipeline
from kandinsky.core.errors import RequestError
from tests.compat.comparing import SMALL, STEPS, close, draw_image, drawn, embeds, hole, oracle, seeded
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.tiny import Checkpoints

Load = Callable[[str, str], Any]
LATENT = {**SMALL, "output_type": "latent"}


@pytest.fixture
def text2img(ours: Load) -> Any:
    return ours("KandinskyV22Pipeline", "text2img")


@pytest.fixture
def img2img(ours: Load) -> Any:
    return ours("KandinskyV22Img2ImgPipeline", "text2img")


@pytest.fixture
def inpaint(ours: Load) -> Any:
    return ours("KandinskyV22InpaintPipeline", "inpaint")


@pytest.mark.parametrize(
    ("rows", "copies", "generators"),
    mostly_slow(
        [(*row, kind) for row in ((1, 1), (3, 1), (2, 2)) for kind in ("one", "list")], (3, 1, "one"), (2, 2, "list")
    ),
)
def test_text_to_image(tiny: Checkpoints, text2img: Any, generators: str, rows: int, copies: int) -> None:
    fields: dict[str, Any] = {**LATENT, "num_images_per_prompt": copies, "guidance_scale": 3.0}
    theirs = tiny.decoders["text2img"](*embeds(rows), generator=drawn(generators, rows * copies), **fields)
    found = text2img(*embeds(rows), generator=drawn(generators, rows * copies), **fields)
    assert close(found.images, theirs.images)


def test_output_types(tiny: Checkpoints, text2img: Any) -> None:
    theirs = tiny.decoders["text2img"](*embeds(2), generator=seeded(), output_type="np", **SMALL).images
    array = text2img(*embeds(2), generator=seeded(), output_type="np", **SMALL).images
    assert array.dtype == np.float32
    assert np.abs(array - theirs).max() < 1 / 255
    tensor = text2img(*embeds(2), generator=seeded(), output_type="pt", **SMALL).images
    assert tensor.shape == (2, 3, 64, 128)
    np.testing.assert_allclose(tensor.permute(0, 2, 3, 1).numpy(), array, atol=1e-6)
    (images,) = text2img(*embeds(2), generator=seeded(), return_dict=False, **SMALL)
    assert [image.size for image in images] == [(128, 64)] * 2
    np.testing.assert_array_equal(np.asarray(images[1]), np.round(array[1] * 255).astype(np.uint8))
    with pytest.raises(RequestError, match="output_type 'jpeg'"):
        text2img(*embeds(1), output_type="jpeg")


def test_given_latents_and_torch_s_own_draws(tiny: Checkpoints, text2img: Any) -> None:
    latents = torch.randn(1, 4, 8, 16, generator=seeded(2))
    torch.manual_seed(3)
    theirs = tiny.decoders["text2img"](*embeds(1), latents=latents, **LATENT).images
    torch.manual_seed(3)
    assert close(text2img(*embeds(1), latents=latents, **LATENT).images, theirs)
    with pytest.raises(RequestError, match=r"\(1, 4, 8, 16\) were given, \(2, 4, 8, 16\)"):
        text2img(*embeds(2), latents=latents, **LATENT)


def test_embeddings_come_as_tensors_arrays_and_lists(text2img: Any) -> None:
    positive, negative = embeds(2)
    wanted = text2img(positive, negative, generator=seeded(), **LATENT).images
    for pair in (
        (positive.numpy(), negative.numpy()),
        (list(positive), list(negative)),
        ([positive[:1], positive[1:]], negative),
    ):
        assert torch.equal(text2img(*pair, generator=seeded(), **LATENT).images, wanted)
    with pytest.raises(RequestError, match="image_embeds is a str"):
        text2img("a fox", negative)
    with pytest.raises(RequestError, match="numbers does not fit this decoder"):
        text2img(positive[:, :7], negative[:, :7])


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_unguided_batches(tiny: Checkpoints, text2img: Any, scale: float) -> None:
    """diffusers cannot do more than one image per embedding here, so its images are made one by one."""
    fields = {**LATENT, "guidance_scale": scale}
    positive, negative = embeds(2)
    found = text2img(positive, None, num_images_per_prompt=2, generator=drawn("list", 4), **fields).images
    for i, generator in enumerate(drawn("list", 4)):
        row = slice(i // 2, i // 2 + 1)
        theirs = tiny.decoders["text2img"](positive[row], negative[row], generator=generator, **fields).images
        assert close(found[i : i + 1], theirs)
    with pytest.raises(RequestError, match="needs negative_image_embeds"):
        text2img(positive, None)


@pytest.mark.parametrize(
    ("strength", "rows", "generators"),
    mostly_slow(
        [(*row, kind) for row in ((0.5, 1), (0.5, 3), (1.0, 2)) for kind in ("one", "list")],
        (0.5, 3, "one"),
        (1.0, 2, "list"),
    ),
)
def test_image_to_image(tiny: Checkpoints, img2img: Any, generators: str, strength: float, rows: int) -> None:
    theirs = oracle(diffusers.KandinskyV22Img2ImgPipeline, tiny.decoders["text2img"])
    fields: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 6, "strength": strength}
    fields |= {"num_images_per_prompt": 2, "output_type": "latent"}
    given = [draw_image(64, 64), draw_image(80, 56, seed=1), draw_image(64, 64, seed=2)][:rows]
    positive, negative = embeds(rows)
    expected = theirs(positive, given, negative, generator=drawn(generators, 2 * rows), **fields).images
    found = img2img(positive, given, negative, generator=drawn(generators, 2 * rows), **fields).images
    assert close(found, expected)


def test_image_to_image_from_numbers(tiny: Checkpoints, img2img: Any) -> None:
    theirs = oracle(diffusers.KandinskyV22Img2ImgPipeline, tiny.decoders["text2img"])
    fields: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 6, "output_type": "latent"}
    unit = torch.rand(2, 3, 64, 64, generator=seeded(4))
    positive, negative = embeds(2)
    for given in (unit, unit * 2 - 1):
        expected = theirs(positive, given, negative, generator=seeded(), **fields).images
        assert close(img2img(positive, given, negative, generator=seeded(), **fields).images, expected)


def test_image_to_image_is_not_transposed(img2img: Any) -> None:
    """Latents that are hardly noised are those of the image, not of its turned canvas."""
    positive, negative = embeds(1)
    wide = np.asarray(draw_image()).copy()
    pixels = torch.from_numpy(wide).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        wanted = img2img.movq.encode(pixels).latents
    found = img2img(positive, wide, negative, strength=0.001, generator=seeded(), **LATENT).images
    assert found.shape == wanted.shape
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize(
    ("copies", "generators"), mostly_slow(product([1, 3], ["one", "list"]), (1, "one"), (3, "list"))
)
def test_inpainting(tiny: Checkpoints, inpaint: Any, generators: str, copies: int) -> None:
    positive, negative = embeds(1)
    fields: dict[str, Any] = {**LATENT, "num_images_per_prompt": copies}
    theirs = tiny.decoders["inpaint"](
        positive, draw_image(), hole(), negative, generator=drawn(generators, copies), **fields
    )
    found = inpaint(positive, draw_image(), hole(), negative, generator=drawn(generators, copies), **fields)
    assert close(found.images, theirs.images)


@pytest.mark.parametrize("kind", ["pil", "array", "bool", "bytes", "tensor", "other size"])
def test_kinds_of_images_and_masks(tiny: Checkpoints, inpaint: Any, kind: str) -> None:
    mask, image = hole(), np.asarray(draw_image())
    given: dict[str, tuple[Any, Any]] = {
        "pil": (draw_image(), Image.fromarray((mask * 255).astype(np.uint8))),
        "array": (image, mask),
        "bool": (image[None], mask.astype(bool)),
        "bytes": (image.astype(np.float32), mask.astype(np.uint8)),
        "tensor": (
            torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1,
            torch.from_numpy(mask)[None, None],
        ),
        "other size": (draw_image(), Image.fromarray((mask * 255).astype(np.uint8)).resize((64, 32), 0)),
    }
    positive, negative = embeds(1)
    expected_mask: Any = mask.copy()
    if kind == "other size":
        expected_mask = given[kind][1]
    theirs = tiny.decoders["inpaint"](positive, draw_image(), expected_mask, negative, generator=seeded(), **LATENT)
    found = inpaint(positive, *given[kind], negative, generator=seeded(), **LATENT)
    assert close(found.images, theirs.images)


def test_a_mask_is_left_as_it_was(inpaint: Any) -> None:
    mask = torch.from_numpy(hole())[None, None] * 0.7
    before = mask.clone()
    positive, negative = embeds(1)
    inpaint(positive, draw_image(), mask, negative, **SMALL)
    assert torch.equal(mask, before)


def test_every_image_keeps_its_own_region(inpaint: Any) -> None:
    positive, negative = embeds(2)
    images, masks = [draw_image(), draw_image(seed=1)], [hole(), hole()[:, ::-1].copy()]
    together = inpaint(positive, images, masks, negative, generator=drawn("list", 2), **LATENT).images
    for i, generator in enumerate(drawn("list", 2)):
        row = slice(i, i + 1)
        alone = inpaint(positive[row], images[i], masks[i], negative[row], generator=generator, **LATENT).images
        assert relative(together[row], alone) < 1e-5


def told_latents(pipe: Any, *arguments: Any, **fields: Any) -> torch.Tensor:
    """The last latents that a pipeline tells a callback: diffusers does not return them here."""
    told: list[torch.Tensor] = []
    pipe(*arguments, callback=lambda i, t, latents: told.append(latents), output_type="np", **fields)
    return told[-1]


@pytest.mark.parametrize(
    ("rows", "copies", "generators"),
    mostly_slow(
        [(*counts, kind) for counts in ((1, 1), (1, 2), (3, 1)) for kind in ("one", "list")],
        (1, 2, "list"),
        (3, 1, "one"),
    ),
)
def test_control(tiny: Checkpoints, ours: Load, generators: str, rows: int, copies: int) -> None:
    hint = torch.rand(rows, 3, 64, 128, generator=seeded(6))
    positive, negative = embeds(rows)
    fields: dict[str, Any] = {**SMALL, "num_images_per_prompt": copies}
    arguments = (positive, negative, hint)
    count = rows * copies
    theirs = told_latents(tiny.decoders["control"], *arguments, generator=drawn(generators, count), **fields)
    mine = ours("KandinskyV22ControlnetPipeline", "control")
    assert close(told_latents(mine, *arguments, generator=drawn(generators, count), **fields), theirs)
    returned = mine(*arguments, generator=drawn(generators, count), output_type="latent", **fields).images
    assert close(returned, theirs)


@pytest.mark.parametrize(("rows", "generators"), mostly_slow(product([1, 3], ["one", "list"]), (1, "one"), (3, "list")))
def test_control_of_an_image(tiny: Checkpoints, ours: Load, generators: str, rows: int) -> None:
    hint = torch.rand(rows, 3, 64, 64, generator=seeded(6))
    positive, negative = embeds(rows)
    fields: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 6, "strength": 0.6}
    theirs = oracle(diffusers.KandinskyV22ControlnetImg2ImgPipeline, tiny.decoders["control"])
    mine = ours("KandinskyV22ControlnetImg2ImgPipeline", "control")
    arguments = (positive, [draw_image(64, 64, seed=seed) for seed in range(rows)], negative, hint)
    expected = told_latents(theirs, *arguments, generator=drawn(generators, rows), **fields)
    assert close(told_latents(mine, *arguments, generator=drawn(generators, rows), **fields), expected)


def test_control_takes_images_and_refuses_other_numbers(ours: Load) -> None:
    positive, negative = embeds(2)
    mine = ours("KandinskyV22ControlnetPipeline", "control")
    depth = draw_image()
    tensor = torch.from_numpy(np.asarray(depth).copy()).permute(2, 0, 1)[None] / 255
    by_image = mine(positive, negative, depth, generator=seeded(), output_type="latent", **SMALL).images
    by_numbers = mine(positive, negative, tensor, generator=seeded(), output_type="latent", **SMALL).images
    assert close(by_image, by_numbers, 1e-5)
    unguided = mine(
        positive, None, tensor, num_images_per_prompt=2, guidance_scale=1.0, generator=seeded(), **SMALL
    ).images
    assert len(unguided) == 4
    with pytest.raises(RequestError, match=r"from -1 to 1\. Scale it to 0\.\.1"):
        mine(positive, negative, torch.linspace(-1, 1, 128).repeat(1, 3, 64, 1), **SMALL)


@pytest.mark.parametrize(("width", "height"), [(72, 40), (100, 64)])
def test_any_size(ours: Load, width: int, height: int) -> None:
    positive, negative = embeds(1)
    size = {"width": width, "height": height, "num_inference_steps": 2}
    (made,) = ours("KandinskyV22Pipeline", "text2img")(positive, negative, **size).images
    (changed,) = ours("KandinskyV22Img2ImgPipeline", "text2img")(
        positive, draw_image(), negative, strength=0.5, **size
    ).images
    (filled,) = ours("KandinskyV22InpaintPipeline", "inpaint")(positive, draw_image(), hole(), negative, **size).images
    assert made.size == changed.size == filled.size == (width, height)


def test_images_of_any_mode(img2img: Any) -> None:
    positive, negative = embeds(1)
    for mode in ("RGBA", "L", "P", "1", "I;16"):
        image = Image.new("I;16", (32, 32), 500) if mode == "I;16" else draw_image(32, 32).convert(mode)
        assert img2img(positive, image, negative, strength=0.5, **SMALL).images[0].mode == "RGB"


@pytest.mark.parametrize("name", ["latents", "image_embeds"])
def test_callbacks_change_what_comes_next(tiny: Checkpoints, text2img: Any, name: str) -> None:
    told: list[Any] = []

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        told.append((index, int(t), tuple(tensors[name].shape)))
        return {name: tensors[name] * -5} if index == 1 else {}

    fields: dict[str, Any] = {**LATENT, "callback_on_step_end": tell}
    fields["callback_on_step_end_tensor_inputs"] = ["latents", "image_embeds"]
    theirs = tiny.decoders["text2img"](*embeds(2), generator=seeded(), **fields).images
    by_oracle, told = told, []
    found = text2img(*embeds(2), generator=seeded(), **fields).images
    assert told == by_oracle
    assert len(told) == STEPS
    assert close(found, theirs)
    plain = text2img(*embeds(2), generator=seeded(), **LATENT).images
    assert not close(found, plain, 1e-3)


def test_callbacks_of_inpainting(tiny: Checkpoints, inpaint: Any) -> None:
    seen: list[Any] = []

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        return {"masked_image": tensors["masked_image"] * 0.0}

    names = ["latents", "masked_image", "mask_image", "negative_image_embeds"]
    fields: dict[str, Any] = {**LATENT, "callback_on_step_end": tell, "callback_on_step_end_tensor_inputs": names}
    positive, negative = embeds(1)
    theirs = tiny.decoders["inpaint"](positive, draw_image(), hole(), negative, generator=seeded(), **fields).images
    by_oracle, seen = seen, []
    found = inpaint(positive, draw_image(), hole(), negative, generator=seeded(), **fields).images
    assert close(found, theirs)
    assert torch.equal(seen[0]["mask_image"].expand(2, -1, -1, -1), by_oracle[0]["mask_image"])
    assert close(seen[0]["masked_image"].expand(2, -1, -1, -1), by_oracle[0]["masked_image"])
    assert torch.equal(seen[0]["negative_image_embeds"], negative)


def test_older_callbacks_and_strange_arguments(text2img: Any) -> None:
    told: list[int] = []
    fields: dict[str, Any] = {**LATENT, "callback": lambda i, t, x: told.append(i), "callback_steps": 2}
    text2img(*embeds(1), **fields)
    assert told == [0, 2]
    with pytest.raises(RequestError, match="callback_steps is 0"):
        text2img(*embeds(1), callback=print, callback_steps=0)
    with pytest.warns(UserWarning, match="takes no 'prompt'"):
        text2img(*embeds(1), prompt="a fox", **LATENT)


def test_the_input_of_another_task_is_told(ours: Load) -> None:
    positive, negative = embeds(1)
    whole = KandinskyV22Pipeline(**ours("KandinskyV22InpaintPipeline", "inpaint").components)
    with pytest.raises(RequestError, match=r"KandinskyV22Pipeline takes no mask.* 9 channels"):
        whole(positive, negative)
    ordinary = KandinskyV22InpaintPipeline(**ours("KandinskyV22Pipeline", "text2img").components)
    with pytest.raises(RequestError, match=r"KandinskyV22InpaintPipeline inpaints.* 4 channels is of the wrong"):
        ordinary(positive, draw_image(), hole(), negative)
    with pytest.raises(RequestError, match="marks nothing"):
        ours("KandinskyV22InpaintPipeline", "inpaint")(positive, draw_image(), hole() * 0, negative)
    with pytest.raises(RequestError, match=r"strength 1\.5"):
        ours("KandinskyV22Img2ImgPipeline", "text2img")(positive, draw_image(), negative, strength=1.5)
    with pytest.raises(RequestError, match=r"2 values of embeddings were given for 3 prompts"):
        ours("KandinskyV22Img2ImgPipeline", "text2img")(embeds(2)[0], [draw_image()] * 3, embeds(2)[1])


def test_a_strength_of_nothing_is_refused_here_and_fails_there(tiny: Checkpoints, ours: Load) -> None:
    positive, negative = embeds(1)
    fields: dict[str, Any] = {**SMALL, "width": 64, "image": draw_image(64), "strength": 0.0}
    fields |= {"image_embeds": positive, "negative_image_embeds": negative}
    with pytest.raises(RequestError, match="strength 0"):
        ours("KandinskyV22Img2ImgPipeline", "text2img")(**fields)
    with pytest.raises(RuntimeError, match="0 elements"):
        oracle(diffusers.KandinskyV22Img2ImgPipeline, tiny.decoders["text2img"])(**fields)
