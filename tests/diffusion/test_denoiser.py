"""Readings, guidance, constraints, and the denoiser they make together."""

import math
from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kandinsky.core.errors import CheckpointError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.guidance import combine, is_guided
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS, Parametrization, Prediction, eps_of, epsilon
from kandinsky.diffusion.process import Process

PROCESS = Process.linear(0.00085, 0.012)


def noised(t: int, shape: tuple[int, ...] = (3, 4, 6, 5)) -> tuple[Tensor, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(t)
    x0, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x0, noise, PROCESS.add_noise(x0, noise, t), PROCESS.alpha_bar_at(t)


@given(t=st.integers(0, 999), name=st.sampled_from(sorted(PARAMETRIZATIONS)))
@settings(max_examples=40, deadline=None)
def test_every_reading_recovers_the_image_and_the_noise(t: int, name: str) -> None:
    x0, noise, x, abar = noised(t)
    truth = {"epsilon": noise, "sample": x0, "velocity": PROCESS.velocity(x0, noise, t)}[name]
    prediction = PARAMETRIZATIONS[name](truth, x, abar)
    torch.testing.assert_close(prediction.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps, noise, rtol=1e-9, atol=1e-9)
    assert prediction.var_frac is None
    torch.testing.assert_close(math.sqrt(abar) * prediction.x0 + math.sqrt(1 - abar) * prediction.eps, x)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS.values(), ids=PARAMETRIZATIONS)
def test_variance_channels_are_split_off_and_mapped(parametrization: Parametrization) -> None:
    _, noise, x, abar = noised(300)
    v = torch.linspace(-1, 1, noise.numel(), dtype=torch.float64).reshape(noise.shape)
    prediction = parametrization(torch.cat([noise, v], dim=1).float(), x, abar)
    assert prediction.var_frac is not None
    torch.testing.assert_close(prediction.var_frac, (v + 1) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(prediction.x0, parametrization(noise.float(), x, abar).x0)
    assert prediction.x0.dtype == torch.float64


@pytest.mark.parametrize("channels", [3, 5, 12])
def test_other_channel_counts_are_an_error(channels: int) -> None:
    with pytest.raises(CheckpointError, match="variances"):
        epsilon(torch.zeros(3, channels, 6, 5), torch.zeros(3, 4, 6, 5), 0.5)


def test_guidance_extrapolates_and_keeps_the_conditional_variance() -> None:
    rows = [torch.full((2, 4, 3, 3), float(i)) for i in range(6)]
    uncond, cond = Prediction(rows[0], rows[1], rows[2]), Prediction(rows[3], rows[4], rows[5])
    mixed = combine(uncond, cond, 4.0)
    assert torch.equal(mixed.x0, torch.full_like(rows[0], 12.0))
    assert torch.equal(mixed.eps, torch.full_like(rows[0], 13.0))
    assert mixed.var_frac is cond.var_frac
    each = combine(uncond, cond, torch.tensor([1.0, 4.0]))
    assert torch.equal(each.eps[0], cond.eps[0])
    assert torch.equal(each.eps[1], mixed.eps[1])


def test_is_guided_only_above_one() -> None:
    assert [is_guided(s) for s in (None, 0.0, 1.0, 1.01, 4.0)] == [False, False, False, True, True]
    assert is_guided(torch.tensor([1.0, 2.0]))
    assert not is_guided(torch.tensor([1.0, 0.5]))


def test_static_constraint_and_the_choice_of_eps() -> None:
    _, noise, x, abar = noised(700)
    prediction = epsilon(2 * noise, x, abar)
    kept = Constraint(kind="static", limit=0.5).apply(prediction, x, abar)
    assert torch.equal(kept.x0, prediction.x0.clamp(-0.5, 0.5))
    assert kept.eps is prediction.eps
    again = Constraint(kind="static", limit=0.5, rederive_eps=True).apply(prediction, x, abar)
    assert torch.equal(again.x0, kept.x0)
    torch.testing.assert_close(math.sqrt(abar) * again.x0 + math.sqrt(1 - abar) * again.eps, x)
    assert Constraint("replace_known_region").apply(prediction, x, abar) is prediction


@pytest.mark.parametrize("largest", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("ratio", [0.5, 0.95, 0.995])
def test_percentile_constraint_is_per_image(ratio: float, largest: float) -> None:
    x0 = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 1.0, 7.0]).reshape(
        3, 1, 1, 1
    )
    x, abar = torch.randn(3, 4, 9, 9), 0.5
    prediction = Prediction(x0, eps_of(x0, x, abar))
    got = Constraint(kind="percentile", ratio=ratio, max=largest).apply(prediction, x, abar).x0
    for row in range(3):
        s = float(np.clip(np.percentile(x0[row].abs().numpy(), 100 * ratio), 1.0, largest))
        torch.testing.assert_close(got[row], x0[row].clamp(-s, s) / s)
    if largest < math.inf:
        reference = diffusers.DDPMScheduler(
            thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=largest
        )
        torch.testing.assert_close(got, reference._threshold_sample(x0))


def test_denoiser_calls_the_network_once_with_the_unconditional_half_first() -> None:
    calls: list[tuple[tuple[int, ...], float]] = []
    x = torch.randn(2, 4, 3, 3)

    def network(doubled: Tensor, t: float) -> Tensor:
        calls.append((tuple(doubled.shape), t))
        assert torch.equal(doubled[:2], doubled[2:])
        bias = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
        return torch.cat([0.5 * doubled + bias, bias.expand_as(doubled)], dim=1)

    prediction = make_denoiser(network, PROCESS, epsilon, 3.0)(x, 400)
    assert calls == [((4, 4, 3, 3), 400)]
    torch.testing.assert_close(prediction.eps, 0.5 * x + 3.0)
    assert prediction.var_frac is not None
    assert torch.equal(prediction.var_frac, torch.ones_like(x))


@pytest.mark.parametrize("scale", [None, 0.0, 1.0])
def test_denoiser_without_guidance_calls_with_the_plain_batch(scale: float | None) -> None:
    x = torch.randn(2, 4, 3, 3)
    shapes: list[torch.Size] = []

    def network(x: Tensor, t: float) -> Tensor:
        shapes.append(x.shape)
        return 0.5 * x

    prediction = make_denoiser(network, PROCESS, epsilon, scale)(x, 400)
    assert shapes == [x.shape]
    torch.testing.assert_close(prediction.eps, 0.5 * x)


def test_a_row_of_a_scale_tensor_acts_as_that_scale_alone() -> None:
    x = torch.randn(3, 4, 3, 3)
    bias = torch.randn(3, 4, 3, 3)

    def doubled(rows: slice) -> Callable[[Tensor, float], Tensor]:
        return lambda x, t: x + torch.cat([torch.zeros_like(bias[rows]), bias[rows]])

    together = make_denoiser(doubled(slice(None)), PROCESS, epsilon, torch.tensor([0.5, 2.0, 7.0]))(x, 9)
    for row, scale in ((1, 2.0), (2, 7.0)):
        rows = slice(row, row + 1)
        alone = make_denoiser(doubled(rows), PROCESS, epsilon, scale)(x[rows], 9)
        assert torch.equal(together.eps[rows], alone.eps)
    plain = make_denoiser(lambda x, t: x + bias[:1], PROCESS, epsilon, 0.5)(x[:1], 9)
    torch.testing.assert_close(together.eps[:1], plain.eps)


def test_denoiser_works_in_float32_and_keeps_float64() -> None:
    def half(x: Tensor, t: float) -> Tensor:
        return x.to(torch.float16)

    x = torch.randn(1, 4, 3, 3)
    assert make_denoiser(half, PROCESS, epsilon)(x.bfloat16(), 3).x0.dtype == torch.float32
    assert make_denoiser(half, PROCESS, epsilon)(x.double(), 3).x0.dtype == torch.float64


def test_denoiser_constrains_after_guidance() -> None:
    bound = Constraint(kind="static", limit=1.0)
    x = torch.zeros(1, 4, 3, 3)
    parametrization = PARAMETRIZATIONS["sample"]
    out = torch.cat([torch.full_like(x, 3.0), torch.full_like(x, 2.5)])
    got = make_denoiser(lambda x, t: out, PROCESS, parametrization, 5.0, [bound])(x, 5)
    # 3 + 5 (2.5 - 3) = 0.5; had the halves been clamped first, both and the result would be 1.
    torch.testing.assert_close(got.x0, torch.full_like(x, 0.5))
