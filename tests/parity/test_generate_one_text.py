"""Whole requests against diffusers' pipelines whose decoders read one text: same folder, same seeds."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from kandinsky.core.errors import RequestError
from kandinsky.core.events import Warned
from kandinsky.core.images import to_tensor
from kandinsky.core.requests import Request
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.parity.test_generate import draw_image, generators, same_images
from tests.requests import our_conditions, our_latents
from tests.tiny_one_text import OneTextCheckpoints

STEPS = 4
PROMPTS = ["a red fox", "a big cat", "an owlet!"]
"""Of one length, as diffusers' results depend on the longest prompt of the batch."""
SIZE: dict[str, Any] = {"width": 64, "height": 64}
FIELDS: dict[str, Any] = SIZE | {"steps": STEPS}


def oracles_latents(oracle: Any, prompt: Any, draws: Any, **options: Any) -> torch.Tensor:
    made: torch.Tensor = oracle(prompt, generator=draws, output_type="latent", **options).images
    return made


@pytest.mark.parametrize(
    ("width", "height", "batch"), mostly_slow([(64, 64, 1), (64, 64, 3), (128, 64, 1)], (64, 64, 3), (128, 64, 1))
)
def test_text_to_image(one_text: OneTextCheckpoints, batch: int, width: int, height: int) -> None:
    prompts = PROMPTS[:batch]
    options: dict[str, Any] = {"width": width, "height": height, "num_inference_steps": STEPS}
    theirs = oracles_latents(one_text.oracle, prompts, generators(7, batch), **options)
    fields = FIELDS | {"prompt": prompts, "seed": 7, "width": width, "height": height}
    pipe = one_text.kept(batch_size=batch)
    assert relative(our_latents(pipe, **fields), theirs) < 1e-4
    assert relative(our_latents(pipe, batch=1, **fields), theirs) < 1e-4
    images = one_text.oracle(prompts, generator=generators(7, batch), **options).images
    assert same_images(pipe.generate(**fields).images, images)


def test_in_double_precision(one_text: OneTextCheckpoints) -> None:
    """diffusers' text encoder takes its norms in single precision, so it is given our states."""
    pipe, oracle = one_text.kept(kind="double", dtype="float64"), one_text.double
    fields = FIELDS | {"prompt": "a red fox", "negative_prompt": "an old ox", "seed": 7}
    conditions = our_conditions(pipe, **fields)
    theirs = oracles_latents(
        oracle,
        None,
        generators(7, 1),
        prompt_embeds=conditions.cond.hidden,
        attention_mask=conditions.cond.mask.long(),
        negative_prompt_embeds=conditions.uncond.hidden,
        negative_attention_mask=conditions.uncond.mask.long(),
        num_inference_steps=STEPS,
        **SIZE,
    )
    assert relative(our_latents(pipe, **fields), theirs) < 1e-6


@pytest.mark.parametrize("guidance", mostly_slow([0.0, 1.5, 3.0, 7.0], 0.0, 3.0))
def test_guidance_scales(one_text: OneTextCheckpoints, guidance: float) -> None:
    options = SIZE | {"num_inference_steps": STEPS, "guidance_scale": guidance}
    theirs = oracles_latents(one_text.oracle, "fox", generators(3, 1), **options)
    ours = our_latents(one_text.kept(), prompt="fox", seed=3, guidance_scale=guidance, **FIELDS)
    assert relative(ours, theirs) < 1e-4


def test_small_guidance_scales_act(one_text: OneTextCheckpoints) -> None:
    """In diffusers they are the same as none."""
    pipe = one_text.kept()
    scales = (0.0, 0.5, 1.0, 1.0 + 1e-6)
    none, half, one, more = (
        our_latents(pipe, prompt="fox", seed=3, guidance_scale=scale, **(FIELDS | {"steps": 1})) for scale in scales
    )
    assert relative(one, more) < 1e-5
    assert relative(one, none) > 1e-3
    # One step is linear in the scale where nothing is clipped.
    inside = (none.abs() < 0.9) & (one.abs() < 0.9)
    torch.testing.assert_close(half[inside], ((none + one) / 2)[inside], rtol=1e-4, atol=1e-5)


def test_the_request_tells_the_effective_scale(one_text: OneTextCheckpoints) -> None:
    result = one_text.kept().generate("fox", seed=1, **(FIELDS | {"steps": 1}))
    assert result.request["guidance_scale"] == 3.0
    assert result.request["effective_guidance_scale"] == 4.0
    again = Request.from_json(result.request)
    assert again.guidance_scale == 3.0
    assert same_images(
        list(one_text.kept().run(again))[-1].result.images,  # type: ignore[union-attr]
        result.images,
    )


def test_negative_prompts_as_long_as_the_prompt(one_text: OneTextCheckpoints) -> None:
    options = SIZE | {"num_inference_steps": STEPS}
    for seed, prompt, negative in ((5, "a red fox", "an old ox"), (6, "a cat", "a dog")):
        single = options | {"negative_prompt": negative}
        theirs = oracles_latents(one_text.oracle, prompt, generators(seed, 1), **single)
        ours = our_latents(one_text.kept(), prompt=prompt, negative_prompt=negative, seed=seed, **FIELDS)
        assert relative(ours, theirs) < 1e-4


def test_a_negative_prompt_has_its_own_length(one_text: OneTextCheckpoints) -> None:
    """diffusers cuts it to the prompt's."""
    pipe = one_text.kept()
    long = our_conditions(pipe, prompt="fox", negative_prompt="a very ugly horse", seed=1, **SIZE)
    alone = our_conditions(pipe, prompt="a very ugly horse", seed=1, **SIZE)
    torch.testing.assert_close(long.uncond.hidden, alone.cond.hidden)
    assert torch.equal(long.uncond.mask, alone.cond.mask)
    assert long.cond.hidden.shape[1] == len("fox") + 2
    empty = our_conditions(pipe, prompt="fox", negative_prompt="", seed=1, **SIZE)
    none = our_conditions(pipe, prompt="fox", seed=1, **SIZE)
    assert empty.uncond.mask.sum() == 1
    assert none.uncond.mask.sum() == 0


def test_an_image_does_not_depend_on_its_batch(one_text: OneTextCheckpoints) -> None:
    """In diffusers the longest prompt acts on the others."""
    prompts, negatives = ["a fox", "a very long prompt of a cat and a dog", "x"], ["bad", None, "awful ugly"]
    fields = FIELDS | {"prompt": prompts, "negative_prompt": negatives, "seed": 9}
    together = our_latents(one_text.kept(batch_size=3), **fields)
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = FIELDS | {"prompt": prompt, "negative_prompt": negative, "seed": 9 + row}
        assert relative(together[row : row + 1], our_latents(one_text.kept(), **alone)) < 1e-4


def test_several_images_of_several_prompts(one_text: OneTextCheckpoints) -> None:
    """diffusers pairs the texts of some with the masks of others."""
    both = our_conditions(one_text.kept(), prompt=["a fox", "a long prompt"], count=2, seed=1, **SIZE)
    for row, prompt in enumerate(["a fox", "a fox", "a long prompt", "a long prompt"]):
        alone = our_conditions(one_text.kept(), prompt=prompt, seed=1, **SIZE)
        length = alone.cond.hidden.shape[1]
        torch.testing.assert_close(both.cond.hidden[row, :length], alone.cond.hidden[0])
        assert torch.equal(both.cond.mask[row, :length], alone.cond.mask[0])
        assert int(both.cond.own[row].sum()) == length


@pytest.mark.parametrize(("strength", "batch"), mostly_slow([(0.3, 1), (0.55, 3), (1.0, 1)], (0.55, 3), (1.0, 1)))
def test_image_to_image(one_text: OneTextCheckpoints, strength: float, batch: int) -> None:
    images, prompts = [draw_image(64, 64, seed) for seed in range(batch)], PROMPTS[:batch]
    options = {"image": images, "num_inference_steps": 10, "strength": strength}
    theirs = oracles_latents(one_text.changer, prompts, generators(11, batch), **options)
    fields = FIELDS | {"prompt": prompts, "image": images, "strength": strength, "seed": 11, "steps": 10}
    assert relative(our_latents(one_text.kept(), **fields), theirs) < 1e-4


def test_image_to_image_with_a_negative_prompt(one_text: OneTextCheckpoints) -> None:
    image = draw_image(64, 64)
    options = {"image": image, "num_inference_steps": 10, "strength": 0.4, "negative_prompt": "a dog"}
    theirs = oracles_latents(one_text.changer, "a cat", generators(2, 1), **options)
    fields = FIELDS | {"prompt": "a cat", "negative_prompt": "a dog", "image": image, "seed": 2}
    ours = our_latents(one_text.kept(), **(fields | {"strength": 0.4, "steps": 10}))
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize(("width", "height"), mostly_slow([(72, 64), (100, 70)], (100, 70)))
def test_any_size(one_text: OneTextCheckpoints, width: int, height: int) -> None:
    """What diffusers gives is rounded up, ours is cropped; diffusers refuses such sizes for images."""
    options: dict[str, Any] = {"width": width, "height": height, "num_inference_steps": 1}
    (theirs,) = one_text.oracle("fox", generator=generators(4, 1), **options).images
    fields: dict[str, Any] = {"prompt": "fox", "seed": 4, "steps": 1, "width": width, "height": height}
    (ours,) = one_text.kept().generate(**fields).images
    assert same_images([ours], [theirs.crop((0, 0, width, height))])
    image = draw_image(width, height)
    (changed,) = one_text.kept().generate(image=image, strength=0.3, **fields).images
    assert changed.size == (width, height)


def test_an_ordinary_decoder_inpaints_by_pinning(one_text: OneTextCheckpoints) -> None:
    image, mask = draw_image(64, 64), np.zeros((64, 64), dtype=np.float32)
    mask[:, 32:] = 1.0
    pipe = one_text.kept()
    ours = our_latents(pipe, prompt="hat", image=image, mask=mask, seed=1, **FIELDS)
    encoded = pipe.model.codec.encode(to_tensor([image], 64, 64))
    assert relative(ours[..., :3], encoded[..., :3]) < 1e-6
    assert relative(ours[..., 4:], encoded[..., 4:]) > 0.1


def test_what_the_decoder_does_not_read_is_told(one_text: OneTextCheckpoints) -> None:
    text = "fox " * 50
    events = list(one_text.kept().stream(text, seed=1, **(FIELDS | {"steps": 1})))
    (told,) = [event.message for event in events if isinstance(event, Warned) and event.text]
    assert "for the decoder" in told
    oracle, ours = one_text.oracle, our_latents(one_text.kept(), prompt=text, seed=1, **(FIELDS | {"steps": 1}))
    theirs = oracles_latents(oracle, text, generators(1, 1), num_inference_steps=1, **SIZE)
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("steps", "sampler"),
    mostly_slow(
        product([1, 3], ["ddim", "plms", "dpmpp_2m", "unipc", "euler", "euler_ancestral", "heun"]),
        (1, "plms"),
        (3, "heun"),
    ),
)
def test_other_samplers(one_text: OneTextCheckpoints, sampler: str, steps: int) -> None:
    fields = FIELDS | {"steps": steps}
    assert torch.isfinite(our_latents(one_text.kept(), prompt="a", seed=1, sampler=sampler, **fields)).all()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an image": ({"prompt": np.zeros((8, 8, 3), np.uint8)}, "reads texts only"),
    "prior steps": ({"prior_steps": 5}, "prior_steps 5 is given, but this checkpoint has no prior"),
    "a hint": ({"hint": np.zeros((8, 8, 3), np.uint8)}, "does not take a hint"),
    "a sampler": ({"sampler": "dppm"}, "Did you mean 'ddpm'"),
    "a strength without image": ({"strength": 0.3}, "without an image"),
    "steps": ({"steps": 1001}, "steps 1001 is outside"),
    "a negative scale": ({"guidance_scale": -1}, "guidance_scale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(one_text: OneTextCheckpoints, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, words = REFUSED[name]
    pipe = one_text.kept()
    for module in pipe.model.modules.values():
        monkeypatch.setattr(module, "forward", None)  # no work is done before the error
    with pytest.raises(RequestError, match=words):
        pipe.stream(**({"prompt": "a fox"} | fields))
