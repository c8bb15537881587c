"""Where denoising begins: eroded masks, latents of images, sizes."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import prepare_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.conditioning.conditions import Batch
from kandinsky.core.errors import RequestError
from kandinsky.core.requests import Request
from kandinsky.core.rng import PerImageRng
from kandinsky.engine.pipeline import Pipeline
from kandinsky.tasks.resolve import resolve
from kandinsky.tasks.start import Start, erode, start
from tests.tiny import Checkpoints

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_erosion_is_that_of_diffusers(height: int, width: int, seed: int, share: float) -> None:
    draw = torch.rand((2, 1, height, width), generator=torch.Generator().manual_seed(seed))
    known = (draw <= share).float()
    assert torch.equal(erode(known), prepare_mask(known.clone()))


def started(pipe: Pipeline, **fields: Any) -> Start:
    resolved = resolve(pipe.model, Request("a fox", **({"seed": 1, "steps": 10} | fields)))
    rows = resolved.rows
    rng = PerImageRng.from_seeds([row.seed for row in rows], pipe.model.working_dtype)
    return start(pipe.model, resolved, Batch(rows, rng))


@pytest.fixture(scope="module")
def pipe(tiny: Checkpoints) -> Pipeline:
    return tiny.own()


@pytest.mark.parametrize(
    ("strength", "kept"), [(1e-9, 1), (0.05, 1), (0.1, 1), (0.19, 1), (0.3, 3), (0.999, 9), (1.0, 10)]
)
def test_strength_keeps_a_part_of_the_times(pipe: Pipeline, strength: float, kept: int) -> None:
    begin = started(pipe, image=IMAGE, strength=strength)
    assert begin.times == pipe.model.schedule.times(10)[-kept:]


def test_an_image_starts_at_the_noise_of_its_first_time(pipe: Pipeline) -> None:
    begin = started(pipe, image=IMAGE, strength=0.5)
    pixels = torch.from_numpy(IMAGE / 127.5 - 1).permute(2, 0, 1)[None].float()
    latents = pipe.model.codec.encode(pixels)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    wanted = pipe.model.schedule.process.add_noise(latents, noise, begin.times[0])
    assert torch.allclose(begin.x, wanted, atol=1e-6)
    assert begin.extra is None
    assert begin.project is None


def test_a_tensor_is_an_image_of_exact_numbers(pipe: Pipeline) -> None:
    bytes_of = torch.from_numpy(IMAGE).permute(2, 0, 1)
    wanted = started(pipe, image=IMAGE, strength=0.5).x
    for image in (bytes_of, bytes_of / 255, bytes_of / 127.5 - 1, [bytes_of]):
        assert torch.allclose(started(pipe, image=image, strength=0.5).x, wanted, atol=1e-5)
    exact = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    begin = started(pipe, image=exact, strength=0.5)
    latents = pipe.model.codec.encode(exact[None])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(begin.x, pipe.model.schedule.process.add_noise(latents, noise, begin.times[0]))
    marked = torch.zeros(64, 64)
    marked[:, 32:] = 1
    both = [started(pipe, image=bytes_of, mask=mask).x for mask in (marked, marked[None], (marked * 255).numpy() > 0)]
    assert all(torch.equal(one, both[0]) for one in both)
    with pytest.raises(RequestError, match=r"Scale it to -1\.\.1"):
        started(pipe, image=exact * 3, strength=0.5)
    with pytest.raises(RequestError, match="several a list of them"):
        started(pipe, image=torch.zeros(2, 3, 64, 64), strength=0.5)


def test_a_region_pins_what_is_known_at_its_own_noise(pipe: Pipeline) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    begin = started(pipe, image=IMAGE, mask=mask)
    assert begin.project is not None
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    assert torch.equal(begin.x, noise), "a region starts from noise"
    x = torch.full_like(begin.x, 7.0)
    clean = begin.project(x, -1)
    pixels = torch.from_numpy(IMAGE / 127.5 - 1).permute(2, 0, 1)[None].float()
    latents = pipe.model.codec.encode(pixels)
    assert torch.allclose(clean[..., :3], latents[..., :3], atol=1e-6)
    assert (clean[..., 3:] == 7.0).all(), "eroded by one"
    later = begin.project(x, 500)
    wanted = pipe.model.schedule.process.add_noise(latents, noise, 500)
    assert torch.allclose(later[..., :3], wanted[..., :3], atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(8, 8), (64, 65), (128, 64), (63, 130)])
def test_sizes_are_rounded_up_to_the_networks_multiple(pipe: Pipeline, width: int, height: int) -> None:
    assert pipe.model.multiple == 64
    shape = (1, 4, -(-height // 64) * 8, -(-width // 64) * 8)
    assert started(pipe, width=width, height=height).x.shape == shape
    assert started(pipe, width=width, height=height, image=IMAGE).x.shape == shape


def test_an_inpainting_network_is_told_the_known_latents(tiny: Checkpoints) -> None:
    pipe = tiny.ours("inpaint", dtype="float64")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    begin = started(pipe, image=IMAGE, mask=mask)
    assert begin.extra is not None
    assert begin.extra.shape == (1, 5, 8, 8)
    assert begin.extra.dtype == torch.float64
    known = begin.extra[:, 4:]
    assert torch.equal(known[0, 0, :, 0], torch.tensor([0.0] * 5 + [1.0] * 3, dtype=torch.float64))
    assert (begin.extra[:, :4] * (1 - known) == 0).all()
