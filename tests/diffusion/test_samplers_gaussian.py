"""Samplers on Gaussian data, where the ideal denoiser is a formula: order of convergence and moments."""

import dataclasses
import math

import pytest
import torch

from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.loop import sample
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import linspaced
from tests.diffusion.worlds import Gaussian

LINEAR = Process.linear(0.00085, 0.012)
FIRST, LAST = 900, 100
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2, "plms": 2, "unipc": 2}


def error_of(name: str, steps: int) -> float:
    """The distance from the exact flow between two times, at which the noise is far from 0 and from pure."""
    # The end is moved to a time with noise left: towards a clean end no step size in log SNR is small.
    process = dataclasses.replace(LINEAR, final_alpha_bar=LINEAR.alpha_bar_at(LAST))
    world = Gaussian(process)
    stride = (FIRST - LAST) // steps
    times = list(range(FIRST, LAST, -stride))
    assert len(times) == steps
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 9)
    rng = PerImageRng.from_seeds([0])
    *_, last = sample(make_sampler(name, process), world.denoise, x, times, rng)
    return (last.x - world.flow(x, FIRST, -1)).abs().max().item()


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    # The fourth-order weights of plms hide its order while steps are few: its errors cross zero near 80.
    counts = (200, 400, 800) if name == "plms" else (40, 80, 160)
    coarse, middle, fine = (error_of(name, steps) for steps in counts)
    orders = [math.log2(coarse / middle), math.log2(middle / fine)]
    assert min(orders) > ORDERS[name] - 0.15, orders
    if ORDERS[name] == 1:
        assert max(orders) < 1.3, orders


def test_second_order_beats_first_at_the_same_number_of_steps() -> None:
    first = error_of("ddim", 40)
    for name in ("heun", "dpmpp_2m", "plms", "unipc"):
        assert error_of(name, 40) < first / 4, name


def test_ddim_and_euler_are_the_same_method() -> None:
    assert error_of("euler", 20) == pytest.approx(error_of("ddim", 20), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {}),
        ("ddim", {"eta": 1.0}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {}),
        ("euler_ancestral", {}),
        ("euler_ancestral", {"eta": 0.5}),
        ("dpmpp_2m", {}),
        ("dpmpp_2m_sde", {}),
        ("heun", {}),
        ("unipc", {}),
    ],
)
def test_moments_of_many_samples(name: str, options: dict[str, float]) -> None:
    process = Process.squared_cosine()
    world = Gaussian(process)
    count = 20_000
    x = torch.randn(1, 1, count, generator=torch.Generator().manual_seed(1))
    rng = PerImageRng.from_seeds([2])
    # Enough steps that what is left is the noise of the estimate: 0.4 / sqrt(20000) = 0.003.
    *_, last = sample(make_sampler(name, process, **options), world.denoise, x, linspaced(250, 1000), rng)
    assert last.x.mean().item() == pytest.approx(world.mean, abs=0.01)
    assert last.x.std().item() == pytest.approx(world.deviation, abs=0.012)
    centred = (last.x - last.x.mean()) / last.x.std()
    assert centred.pow(4).mean().item() == pytest.approx(3.0, abs=0.15)
