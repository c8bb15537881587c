"""Whole requests against diffusers' pipelines whose decoders read the text too: same folders, same seeds."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.kandinsky import KandinskyImg2ImgPipeline, KandinskyPipeline

import kandinsky
from kandinsky.checkpoints.maps.scheduler import TEXT_IMAGE_SCHEDULES
from kandinsky.core.events import Warned
from kandinsky.core.images import to_tensor
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.parity.test_generate import draw_image, generators, same_images
from tests.requests import our_conditions, our_latents
from tests.tiny_text_image import TextImageCheckpoints

STEPS, PRIOR_STEPS = 4, 3
PROMPTS = ["a red fox", "зелёный дом", "a"]
SIZE: dict[str, Any] = {"width": 64, "height": 64}
FIELDS: dict[str, Any] = SIZE | {"steps": STEPS, "prior_steps": PRIOR_STEPS}


def embedded(made: TextImageCheckpoints, prompts: list[str], draws: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return made.prior(  # type: ignore[no-any-return]
        prompts, num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False
    )


def latents_of(oracle: Any, *inputs: Any, generator: Any, **options: Any) -> torch.Tensor:
    """The latents that diffusers' pipeline hands to its autoencoder, which it gives nobody."""
    seen: list[torch.Tensor] = []
    decode = oracle.movq.decode
    try:
        oracle.movq.decode = lambda x, **told: seen.append(x) or decode(x, **told)
        oracle(*inputs, generator=generator, **options)
    finally:
        del oracle.movq.decode
    return seen[0]


@pytest.mark.parametrize(
    ("width", "height", "batch"), mostly_slow([(64, 64, 1), (64, 64, 3), (128, 64, 1)], (64, 64, 3), (128, 64, 1))
)
def test_text_to_image(text_image: TextImageCheckpoints, batch: int, width: int, height: int) -> None:
    prompts, draws = PROMPTS[:batch], generators(7, batch)
    embeds, zeros = embedded(text_image, prompts, draws)
    options: dict[str, Any] = {"width": width, "height": height, "num_inference_steps": STEPS}
    states = [draw.get_state() for draw in draws]
    theirs = latents_of(text_image.decoder, prompts, embeds, zeros, generator=draws, **options)
    fields = FIELDS | {"prompt": prompts, "seed": 7, "width": width, "height": height}
    pipe = text_image.kept(batch_size=batch)
    assert relative(our_latents(pipe, **fields), theirs) < 1e-4
    assert relative(our_latents(pipe, batch=1, **fields), theirs) < 1e-4
    for draw, state in zip(draws, states, strict=True):
        draw.set_state(state)
    images = text_image.decoder(prompts, embeds, zeros, generator=draws, **options).images
    assert same_images(pipe.generate(**fields).images, images)


@pytest.mark.parametrize("guidance", mostly_slow([1.0, 7.0], 1.0))
def test_guidance_scales(text_image: TextImageCheckpoints, guidance: float) -> None:
    draws = generators(3, 1)
    embeds, zeros = embedded(text_image, ["fox"], draws)
    options: dict[str, Any] = SIZE | {"num_inference_steps": STEPS, "guidance_scale": guidance}
    theirs = latents_of(text_image.decoder, ["fox"], embeds, zeros, generator=draws, **options)
    ours = our_latents(text_image.kept(), prompt="fox", seed=3, guidance_scale=guidance, **FIELDS)
    assert relative(ours, theirs) < 1e-4


def test_negative_prompts(text_image: TextImageCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws other noise for the negative rows of its prior; given the same, the results agree."""

    def shared(shape: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        half = torch.randn((shape[0] // 2, *shape[1:]), generator=generator)
        return torch.cat([half, half])

    draw = torch.Generator().manual_seed(5)
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.pipelines.kandinsky.pipeline_kandinsky_prior.randn_tensor", shared)
        patch.setattr("diffusers.schedulers.scheduling_unclip.randn_tensor", shared)
        embeds, negative = text_image.prior(
            ["a fox"], negative_prompt=["ugly"], num_inference_steps=PRIOR_STEPS, generator=draw, return_dict=False
        )
    options = SIZE | {"num_inference_steps": STEPS, "negative_prompt": ["ugly"]}
    theirs = latents_of(text_image.decoder, ["a fox"], embeds, negative, generator=draw, **options)
    pipe = text_image.kept()
    ours = our_latents(pipe, prompt="a fox", negative_prompt="ugly", seed=5, **FIELDS)
    assert relative(ours, theirs) < 1e-4
    several = our_latents(pipe, prompt=["a fox"] * 2, negative_prompt=[None, "ugly"], seed=4, **FIELDS)
    assert relative(several[1:], ours) < 1e-4
    assert relative(our_latents(pipe, prompt="a fox", seed=5, **FIELDS), theirs) > 1e-2


@pytest.mark.parametrize(("strength", "batch"), mostly_slow([(0.3, 1), (0.55, 3), (1.0, 1)], (0.55, 3), (1.0, 1)))
def test_image_to_image(text_image: TextImageCheckpoints, strength: float, batch: int) -> None:
    images = [draw_image(64, 64, seed) for seed in range(batch)]
    prompts, draws = PROMPTS[:batch], generators(11, batch)
    embeds, zeros = embedded(text_image, prompts, draws)
    oracle = KandinskyImg2ImgPipeline(**text_image.decoder.components)
    oracle.set_progress_bar_config(disable=True)
    options = SIZE | {"num_inference_steps": 10, "strength": strength, "guidance_scale": 4.0}
    theirs = latents_of(oracle, prompts, images, embeds, zeros, generator=draws, **options)
    fields = FIELDS | {"prompt": prompts, "image": images, "strength": strength, "seed": 11, "steps": 10}
    assert relative(our_latents(text_image.kept(), **fields), theirs) < 1e-4


def test_the_least_change_of_an_image(text_image: TextImageCheckpoints) -> None:
    """diffusers' noise level wraps to the far end of its table here, and gives pure noise."""
    pipe, image = text_image.kept(), draw_image(64, 64)
    ours = our_latents(pipe, prompt="fox", image=image, strength=0.001, seed=1, steps=10, prior_steps=2)
    assert relative(ours, pipe.model.codec.encode(to_tensor([image], 64, 64))) < 0.1


@pytest.mark.parametrize(("width", "height"), mostly_slow([(64, 64), (128, 64)], (128, 64)))
def test_inpainting(text_image: TextImageCheckpoints, width: int, height: int) -> None:
    image, mask = draw_image(width, height), np.zeros((height, width), dtype=np.float32)
    mask[8:40, 16:56] = 1.0
    draws = generators(13, 1)
    embeds, zeros = embedded(text_image, ["hat"], draws)
    options = {"width": width, "height": height, "num_inference_steps": STEPS}
    theirs = latents_of(text_image.inpainting, ["hat"], image, mask.copy(), embeds, zeros, generator=draws, **options)
    fields = FIELDS | {"prompt": "hat", "image": image, "mask": mask, "seed": 13}
    fields |= {"width": width, "height": height}
    assert relative(our_latents(text_image.kept("inpainting"), **fields), theirs) < 1e-4


def test_an_ordinary_decoder_inpaints_by_pinning(text_image: TextImageCheckpoints) -> None:
    image, mask = draw_image(64, 64), np.zeros((64, 64), dtype=np.float32)
    mask[:, 32:] = 1.0
    pipe = text_image.kept()
    ours = our_latents(pipe, prompt="hat", image=image, mask=mask, seed=1, **FIELDS)
    encoded = pipe.model.codec.encode(to_tensor([image], 64, 64))
    assert relative(ours[..., :3], encoded[..., :3]) < 1e-6
    assert relative(ours[..., 4:], encoded[..., 4:]) > 0.1


def test_interpolation(text_image: TextImageCheckpoints) -> None:
    image, draw = draw_image(40, 60), torch.Generator().manual_seed(19)
    items, weights = ["a cat", image, "a dog"], [0.3, 0.3, 0.4]
    made = text_image.prior.interpolate(items, weights, num_inference_steps=PRIOR_STEPS, generator=draw)
    conditions = our_conditions(
        text_image.kept(), prompt=kandinsky.mix(items, weights), seed=19, prior_steps=PRIOR_STEPS
    )
    assert relative(conditions.cond.image_embedding, made.image_embeds) < 1e-4
    assert relative(conditions.uncond.image_embedding, made.negative_image_embeds) < 1e-4
    # The decoder's own text beside a mix is the empty one, in both halves.
    assert torch.equal(conditions.cond.text_hidden, conditions.uncond.text_hidden)


def test_the_second_published_scheduler(text_image: TextImageCheckpoints) -> None:
    draws = generators(23, 2)
    embeds, zeros = embedded(text_image, PROMPTS[:2], draws)
    oracle = KandinskyPipeline(**(text_image.decoder.components | {"scheduler": DDPMScheduler(**_second_scheduler())}))
    oracle.set_progress_bar_config(disable=True)
    options = SIZE | {"num_inference_steps": STEPS}
    theirs = latents_of(oracle, PROMPTS[:2], embeds, zeros, generator=draws, **options)
    ours = our_latents(text_image.kept(), prompt=PROMPTS[:2], seed=23, sampler="ddpm", **FIELDS)
    assert relative(ours, theirs) < 1e-4


def _second_scheduler() -> dict[str, Any]:
    json = TEXT_IMAGE_SCHEDULES["ddpm_scheduler"]
    return {key: value for key, value in json.items() if not key.startswith("_")}


def test_several_images_of_several_prompts(text_image: TextImageCheckpoints) -> None:
    """Each image has the text and the embedding of one and the same prompt."""
    fields = SIZE | {"prior_steps": 2, "seed": 31}
    both = our_conditions(text_image.kept(), prompt=PROMPTS[:2], count=2, **fields)
    for row, prompt in enumerate([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]):
        alone = our_conditions(text_image.kept(), prompt=prompt, **(fields | {"seed": 31 + row}))
        assert relative(both.cond.text_hidden[row], alone.cond.text_hidden[0]) < 1e-5
        assert relative(both.cond.image_embedding[row], alone.cond.image_embedding[0]) < 1e-4


def test_what_the_decoder_does_not_read_is_told(text_image: TextImageCheckpoints) -> None:
    text = "fox " * 30
    events = list(text_image.kept().stream(text, seed=1, **(FIELDS | {"steps": 1, "prior_steps": 1})))
    told = [event.message for event in events if isinstance(event, Warned)]
    assert any("for the decoder" in message and message.count("fox") > 5 for message in told)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("steps", "sampler"),
    mostly_slow(
        product([1, 3], ["plms", "dpmpp_2m", "unipc", "euler", "euler_ancestral", "heun"]), (1, "plms"), (3, "heun")
    ),
)
def test_other_samplers(text_image: TextImageCheckpoints, sampler: str, steps: int) -> None:
    ours = our_latents(text_image.kept(), prompt="fox", seed=1, sampler=sampler, **(FIELDS | {"steps": steps}))
    assert torch.isfinite(ours).all()
