"""What callbacks see and change, beside what they do in diffusers."""

import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from kandinsky.compat import diffusers as compat
from kandinsky.core.errors import RequestError
from tests.compat.comparing import PRIOR_STEPS, SMALL, close, draw_image, embeds, folder, hole, oracle, seeded
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints

Load = Callable[[str, str], Any]
LATENT = {**SMALL, "output_type": "latent"}
EMBEDS, STATES = ["latents", "image_embeds"], ["prompt_embeds", "text_encoder_hidden_states", "text_mask"]


def at(step: int, change: Callable[[Any, dict[str, Any]], Any]) -> Callable[..., dict[str, Any]]:
    """A callback that changes something after one step."""

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        returned = change(pipe, tensors) if index == step else None
        return tensors if returned is None else returned

    return tell


def weaker(pipe: Any, tensors: dict[str, Any]) -> None:
    assert (pipe.guidance_scale, pipe.do_classifier_free_guidance) == (4.0, True)
    assert pipe.num_timesteps >= PRIOR_STEPS
    pipe._guidance_scale = 1.5


def off(pipe: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._guidance_scale = 0.0
    return {name: value if name == "latents" else value.chunk(2)[-1] for name, value in tensors.items()}


def in_place(pipe: Any, tensors: dict[str, Any]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and name != "latents":
            value.mul_(0.5)


def more_keys(pipe: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {"latents": tensors["latents"] * 0.5, "note": 3}


@pytest.mark.parametrize(
    ("task", "change"),
    mostly_slow(
        product(["text2img", "img2img"], [weaker, off, in_place, more_keys]),
        ("text2img", weaker),
        ("text2img", off),
        ("img2img", in_place),
        ("text2img", more_keys),
    ),
)
def test_of_a_decoder(tiny: Checkpoints, ours: Load, task: str, change: Any) -> None:
    import diffusers

    names = {"text2img": "KandinskyV22Pipeline", "img2img": "KandinskyV22Img2ImgPipeline"}
    positive, negative = embeds(2)
    inputs: dict[str, Any] = {"image_embeds": positive, "negative_image_embeds": negative, **LATENT, "width": 64}
    if task == "img2img":
        inputs |= {"image": [draw_image(64, 64), draw_image(64, 64, seed=1)], "strength": 0.9}
    inputs |= {"callback_on_step_end": at(1, change), "callback_on_step_end_tensor_inputs": EMBEDS}
    theirs = oracle(getattr(diffusers, names[task]), tiny.decoders["text2img"])
    mine = ours(names[task], "text2img")
    found = mine(generator=seeded(), **inputs).images
    assert close(found, theirs(generator=seeded(), **inputs).images)
    plain = mine(generator=seeded(), **inputs | {"callback_on_step_end": None}).images
    assert not close(found, plain, 1e-3)


@pytest.mark.parametrize("change", [weaker, off, in_place])
def test_of_a_prior(tiny: Checkpoints, ours: Load, change: Any) -> None:
    mine = ours("KandinskyV22PriorPipeline", "prior")
    fields: dict[str, Any] = {"num_inference_steps": PRIOR_STEPS, "negative_prompt": "ugly"}
    told = {"callback_on_step_end": at(0, change), "callback_on_step_end_tensor_inputs": ["latents", *STATES]}
    found = mine("a fox", generator=seeded(), **fields, **told).image_embeds
    assert close(found, tiny.prior("a fox", generator=seeded(), **fields, **told).image_embeds)
    assert not close(found, mine("a fox", generator=seeded(), **fields).image_embeds, 1e-3)


@pytest.mark.parametrize("change", [off, in_place])
def test_of_a_decoder_that_reads_one_text(one_text: OneTextCheckpoints, change: Any) -> None:
    assert one_text.oracle
    mine = compat.Kandinsky3Pipeline.from_pretrained(one_text.root / "decoder")
    told = {
        "callback_on_step_end": at(0, change),
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "attention_mask"],
    }
    found = mine("a red fox", generator=seeded(), **LATENT, **told).images
    assert close(found, one_text.oracle("a red fox", generator=seeded(), **LATENT, **told).images)
    weak = mine("a red fox", generator=seeded(), **LATENT, callback_on_step_end=at(0, lambda p, _: _weak(p))).images
    assert not close(weak, mine("a red fox", generator=seeded(), **LATENT).images, 1e-4)  # diffusers reads it once


def _weak(pipe: Any) -> None:
    pipe._guidance_scale = 1.5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_changed_mask_is_what_stays_known(tiny: Checkpoints, ours: Load, value: float) -> None:
    mine = ours("KandinskyV22InpaintPipeline", "inpaint")
    change = at(1, lambda _, tensors: {"mask_image": torch.full_like(tensors["mask_image"], value)})
    told = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["mask_image"]}
    positive, negative = embeds(1)
    inputs = (positive, draw_image(), hole(), negative)
    expected = tiny.decoders["inpaint"](*inputs, generator=seeded(), **LATENT, **told).images
    assert close(mine(*inputs, generator=seeded(), **LATENT, **told).images, expected)


def test_a_tensor_may_be_returned_that_was_not_asked_for(tiny: Checkpoints, ours: Load) -> None:
    both = torch.cat(embeds(1)[::-1])
    told = {"callback_on_step_end": at(1, lambda _, tensors: {"image_embeds": both * 0.5})}
    found = ours("KandinskyV22Pipeline", "text2img")(*embeds(1), generator=seeded(), **LATENT, **told).images
    assert close(found, tiny.decoders["text2img"](*embeds(1), generator=seeded(), **LATENT, **told).images)


def test_without_guidance_negatives_are_the_given_ones(tiny: Checkpoints, ours: Load) -> None:
    mine = ours("KandinskyV22Pipeline", "text2img")
    positive, negative = embeds(2)
    fields: dict[str, Any] = {**LATENT, "guidance_scale": 1.0}
    seen: list[Any] = []

    def look(_: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["negative_image_embeds"])
        return {"negative_image_embeds": tensors["negative_image_embeds"] * 0}

    told = {"callback_on_step_end": at(0, look), "callback_on_step_end_tensor_inputs": ["negative_image_embeds"]}
    plain = mine(positive, negative, generator=seeded(), **fields).images
    assert close(mine(positive, negative, generator=seeded(), **fields, **told).images, plain, 1e-6)
    assert torch.equal(seen[0], negative)
    grown = at(0, lambda pipe, _: _set(pipe, 4.0))
    later = mine(positive, negative, generator=seeded(), **fields, callback_on_step_end=grown).images
    assert not close(later, plain, 1e-3)
    with pytest.raises(RequestError, match="needs the negative tensors"):
        mine(positive, None, generator=seeded(), **fields, callback_on_step_end=grown)


def _set(pipe: Any, scale: object) -> None:
    pipe._guidance_scale = scale


@pytest.mark.parametrize(
    ("older", "dtype"),
    mostly_slow(
        product([True, False], [torch.float32, torch.bfloat16]), (True, torch.bfloat16), (False, torch.float32)
    ),
)
def test_previews(tiny: Checkpoints, dtype: torch.dtype, older: bool) -> None:
    """A callback decodes the latents, which are of the pipeline's dtype and record no gradients."""
    mine = compat.KandinskyV22Pipeline.from_pretrained(folder(tiny, "text2img"), torch_dtype=dtype)
    shapes: list[tuple[int, ...]] = []

    def look(latents: torch.Tensor) -> None:
        assert latents.dtype is dtype
        shapes.append(mine.movq.decode(latents, force_not_quantize=True)["sample"].float().cpu().numpy().shape)

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        look(tensors["latents"])
        return tensors

    told: dict[str, Any] = {"callback": lambda i, t, x: look(x)} if older else {"callback_on_step_end": tell}
    mine(*embeds(1), generator=seeded(), **LATENT, **told)
    assert shapes == [(1, 3, 64, 128)] * SMALL["num_inference_steps"]


def test_a_call_can_be_interrupted(ours: Load) -> None:
    mine = ours("KandinskyV22Pipeline", "text2img")
    seen: list[torch.Tensor] = []

    def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        pipe._interrupt = index == 1
        return tensors

    found = mine(*embeds(1), generator=seeded(), **LATENT, callback_on_step_end=tell).images
    assert len(seen) == 2
    assert torch.equal(found, seen[-1])
    assert mine.interrupt
    mine(*embeds(1), generator=seeded(), **LATENT)
    assert not mine.interrupt


def test_calls_in_threads_keep_their_own_guidance(ours: Load) -> None:
    mine = ours("KandinskyV22Pipeline", "text2img")
    barrier, found = threading.Barrier(2), {}

    def call(scale: float) -> None:
        def tell(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            barrier.wait(60)
            assert pipe.guidance_scale == scale
            return tensors

        found[scale] = mine(
            *embeds(1), generator=seeded(), guidance_scale=scale, callback_on_step_end=tell, **LATENT
        ).images

    threads = [threading.Thread(target=call, args=(scale,)) for scale in (2.0, 5.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scale in (2.0, 5.0):
        alone = mine(*embeds(1), generator=seeded(), guidance_scale=scale, **LATENT).images
        assert close(found[scale], alone, 1e-5)


def test_the_scheduler_has_the_steps_of_the_call(tiny: Checkpoints, ours: Load) -> None:
    mine, theirs = ours("KandinskyV22Pipeline", "text2img"), tiny.decoders["text2img"]
    for pipe in (mine, theirs):
        pipe(*embeds(1), generator=seeded(), **LATENT)
    assert mine.scheduler.timesteps.tolist() == theirs.scheduler.timesteps.tolist()
    assert mine.scheduler.num_inference_steps == theirs.scheduler.num_inference_steps == SMALL["num_inference_steps"]


def test_numbers_in_tensors(ours: Load) -> None:
    mine = ours("KandinskyV22Pipeline", "text2img")
    plain = mine(*embeds(1), generator=seeded(), **LATENT, guidance_scale=3.0).images
    fields = LATENT | {"num_inference_steps": float(LATENT["num_inference_steps"])}
    assert torch.equal(mine(*embeds(1), generator=seeded(), **fields, guidance_scale=torch.tensor(3.0)).images, plain)
    with pytest.raises(RequestError, match="guidance_scale is tensor"):
        mine(*embeds(1), guidance_scale=torch.ones(2), **LATENT)
