"""Whole requests against diffusers' 2.2 pipelines: same folders, same seeds, same images."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.kandinsky2_2 import (
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
)
from PIL import Image

import kandinsky
from kandinsky.core.images import to_tensor
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.requests import our_conditions, our_latents
from tests.tiny import Checkpoints, as_published, save_decoder, save_prior

STEPS, PRIOR_STEPS = 4, 3


def generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def draw_image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def same_images(ours: list[Image.Image], theirs: list[Image.Image]) -> bool:
    """Equal to 8-bit rounding, which a random decoder amplifies, and nearly everywhere exactly."""
    pairs = [np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)) for a, b in zip(ours, theirs, strict=True)]
    return all(d.max() <= 2 and (d > 0).mean() < 0.05 for d in pairs)


@pytest.mark.parametrize(
    ("width", "height", "batch"), mostly_slow(product([64, 128], [64], [1, 3]), (64, 64, 1), (128, 64, 3))
)
def test_text_to_image(tiny: Checkpoints, batch: int, width: int, height: int) -> None:
    prompts = ["a red fox", "зелёный дом", "a"][:batch]
    draws = generators(7, batch)
    embeds, negative = tiny.prior(prompts, num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    options = {"height": height, "width": width, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    oracle = tiny.decoders["text2img"]
    theirs = oracle(embeds, negative, generator=draws, output_type="latent", **options).images
    fields: dict[str, Any] = {"prompt": prompts, "seed": 7, "width": width, "height": height, "steps": STEPS}
    fields |= {"prior_steps": PRIOR_STEPS, "guidance_scale": 3.0}
    pipe = tiny.kept("text2img", batch_size=batch)
    assert relative(our_latents(pipe, **fields), theirs) < 1e-4
    assert relative(our_latents(pipe, batch=1, **fields), theirs) < 1e-4
    draws = generators(7, batch)
    embeds, negative = tiny.prior(prompts, num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    assert same_images(pipe.generate(**fields).images, oracle(embeds, negative, generator=draws, **options).images)


@pytest.mark.parametrize("guidance", mostly_slow([0.0, 1.0, 7.5], 0.0, 1.0))
def test_guidance_scales(tiny: Checkpoints, guidance: float) -> None:
    draws = generators(3, 1)
    embeds, negative = tiny.prior(["fox"], num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    theirs = tiny.decoders["text2img"](
        embeds,
        negative,
        generator=draws,
        output_type="latent",
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
    ).images
    ours = our_latents(
        tiny.kept("text2img"),
        prompt="fox",
        seed=3,
        steps=STEPS,
        prior_steps=PRIOR_STEPS,
        guidance_scale=guidance,
        width=64,
        height=64,
    )
    assert relative(ours, theirs) < 1e-4


def test_negative_prompts(tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws other noise for the negative rows; given the same noise for both, the results agree."""

    def shared(shape: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        half = torch.randn((shape[0] // 2, *shape[1:]), generator=generator)
        return torch.cat([half, half])

    draw = torch.Generator().manual_seed(5)
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_prior.randn_tensor", shared)
        patch.setattr("diffusers.schedulers.scheduling_unclip.randn_tensor", shared)
        embeds, negative = tiny.prior(
            ["a fox"], negative_prompt=["ugly"], num_inference_steps=PRIOR_STEPS, generator=draw, return_dict=False
        )
    theirs = tiny.decoders["text2img"](
        embeds, negative, generator=draw, output_type="latent", height=64, width=64, num_inference_steps=STEPS
    ).images
    fields: dict[str, Any] = {"seed": 5, "steps": STEPS, "prior_steps": PRIOR_STEPS, "width": 64, "height": 64}
    ours = our_latents(tiny.kept("text2img"), prompt="a fox", negative_prompt="ugly", **fields)
    assert relative(ours, theirs) < 1e-4
    plain = our_latents(tiny.kept("text2img"), prompt="a fox", **fields)
    assert relative(plain, theirs) > 1e-2


@pytest.mark.parametrize("strength", mostly_slow([0.3, 0.5, 1.0], 0.5, 1.0))
def test_image_to_image(tiny: Checkpoints, strength: float) -> None:
    image = draw_image(64, 64)
    draws = generators(11, 2)
    embeds, negative = tiny.prior(["fox", "cat"], num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    oracle = KandinskyV22Img2ImgPipeline(**tiny.decoders["text2img"].components)
    oracle.set_progress_bar_config(disable=True)
    theirs = oracle(
        embeds,
        [image, image],
        negative,
        height=64,
        width=64,
        num_inference_steps=10,
        strength=strength,
        generator=draws,
        output_type="latent",
    ).images
    ours = our_latents(
        tiny.kept("text2img", 2),
        prompt=["fox", "cat"],
        image=image,
        strength=strength,
        seed=11,
        steps=10,
        prior_steps=PRIOR_STEPS,
        width=64,
        height=64,
    )
    assert relative(ours, theirs) < 1e-4


@pytest.mark.parametrize(("width", "height"), mostly_slow([(64, 64), (128, 64)], (128, 64)))
def test_inpainting(tiny: Checkpoints, width: int, height: int) -> None:
    image = draw_image(width, height)
    mask = np.zeros((height, width), dtype=np.float32)
    mask[8:40, 16:56] = 1.0
    draws = generators(13, 1)
    embeds, negative = tiny.prior(["hat"], num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    oracle: KandinskyV22InpaintPipeline = tiny.decoders["inpaint"]
    theirs = oracle(
        embeds,
        image,
        mask.copy(),
        negative,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        generator=draws,
        output_type="latent",
    ).images
    fields: dict[str, Any] = {"prompt": "hat", "image": image, "mask": mask, "seed": 13, "steps": STEPS}
    fields |= {"prior_steps": PRIOR_STEPS, "width": width, "height": height}
    assert relative(our_latents(tiny.kept("inpaint"), **fields), theirs) < 1e-4


def test_an_ordinary_decoder_inpaints_by_pinning(tiny: Checkpoints) -> None:
    image, mask = draw_image(64, 64), np.zeros((64, 64), dtype=np.float32)
    mask[:, 32:] = 1.0
    pipe = tiny.kept("text2img")
    ours = our_latents(pipe, prompt="hat", image=image, mask=mask, seed=1, steps=STEPS, prior_steps=2)
    encoded = pipe.model.codec.encode(to_tensor([image], 64, 64))
    assert relative(ours[..., :3], encoded[..., :3]) < 1e-6
    assert relative(ours[..., 4:], encoded[..., 4:]) > 0.1


def test_control(tiny: Checkpoints) -> None:
    hint = draw_image(64, 64, seed=4)
    draws = generators(17, 2)
    embeds, negative = tiny.prior(["fox", "cat"], num_inference_steps=PRIOR_STEPS, generator=draws, return_dict=False)
    oracle: KandinskyV22ControlnetPipeline = tiny.decoders["control"]
    tensor = ((to_tensor([hint], 64, 64) + 1) / 2).repeat(2, 1, 1, 1)
    # This pipeline gives no latents, and a random decoder would amplify the rounding of the loop.
    theirs: list[torch.Tensor] = []
    oracle(
        embeds,
        negative,
        tensor,
        height=64,
        width=64,
        num_inference_steps=STEPS,
        generator=draws,
        callback=lambda step, t, latents: theirs.append(latents.clone()),
    )
    ours = our_latents(
        tiny.kept("control", 2),
        prompt=["fox", "cat"],
        hint=hint,
        seed=17,
        steps=STEPS,
        prior_steps=PRIOR_STEPS,
        width=64,
        height=64,
    )
    assert len(theirs) == STEPS
    assert relative(ours, theirs[-1]) < 1e-4


def test_interpolation(tiny: Checkpoints) -> None:
    image = draw_image(40, 60)
    draw = torch.Generator().manual_seed(19)
    mixed = tiny.prior.interpolate(
        ["a cat", image, "a dog"], [0.3, 0.3, 0.4], num_inference_steps=PRIOR_STEPS, generator=draw
    )
    conditions = our_conditions(
        tiny.kept("text2img"),
        prompt=kandinsky.mix(["a cat", image, "a dog"], [0.3, 0.3, 0.4]),
        seed=19,
        prior_steps=PRIOR_STEPS,
    )
    assert relative(conditions.cond.image_embedding, mixed.image_embeds) < 1e-4
    assert relative(conditions.uncond.image_embedding, mixed.negative_image_embeds) < 1e-4


def test_float64(tmp_path: Path) -> None:
    """In double precision only diffusers' single-precision coefficients are left between us."""
    prior = save_prior(tmp_path / "prior", torch.float64)
    decoder: KandinskyV22Pipeline = save_decoder(tmp_path / "decoder", dtype=torch.float64)
    draw = torch.Generator().manual_seed(23)
    embeds, negative = prior("fox", num_inference_steps=PRIOR_STEPS, generator=draw, return_dict=False)
    theirs = decoder(
        embeds, negative, generator=draw, output_type="latent", height=64, width=64, num_inference_steps=STEPS
    ).images
    pipe = as_published(kandinsky.load(tmp_path / "decoder", prior=tmp_path / "prior", device="cpu", dtype="float64"))
    fields: dict[str, Any] = {"prompt": "fox", "seed": 23, "steps": STEPS, "prior_steps": PRIOR_STEPS}
    assert relative(our_latents(pipe, width=64, height=64, **fields), theirs) < 2e-6
