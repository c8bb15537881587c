"""The one loop: every sampler at every count, pinning, cancellation, gradients, and what it refuses."""

import gc
import weakref
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.rng import PerImageRng
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import Step, sample
from kandinsky.diffusion.parametrization import Prediction, epsilon
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import SAMPLERS, make_sampler
from kandinsky.diffusion.times import leading, linspaced
from tests.diffusion.worlds import Gaussian, crooked_eps
from tests.replay import ReplayRng

LINEAR = Process.linear(0.00085, 0.012)
COSINE = Process.squared_cosine()
ALL = pytest.mark.parametrize("name", sorted(SAMPLERS))


def run(name: str, process: Process, times: list[int], rows: int = 1, **options: float) -> list[Tensor]:
    x = torch.randn(rows, 2, 3, generator=torch.Generator().manual_seed(rows))
    rng = PerImageRng.from_seeds(range(rows))
    denoise = Gaussian(process).denoise
    return [s.x for s in sample(make_sampler(name, process, **options), denoise, x, times, rng)]


@ALL
@pytest.mark.parametrize("n", [1, 2, 3, 7, 9, 27, 36, 101, 250, 1000])
def test_every_sampler_runs_at_every_count(name: str, n: int) -> None:
    for process, times in ((LINEAR, leading(n, 1000, 1)), (COSINE, linspaced(n, 1000))):
        path = run(name, process, times)
        assert len(path) == n
        assert all(bool(x.isfinite().all()) for x in path)
        # From nearly pure noise a few steps of a method that looks ahead overshoot; from here on none may.
        if n >= 27:
            assert path[-1].abs().max() < 4.0


@given(n=st.integers(1, 200), name=st.sampled_from(sorted(SAMPLERS)), cosine=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_sampler_runs_at_random_counts(n: int, name: str, cosine: bool) -> None:
    process, times = (COSINE, linspaced(n, 1000)) if cosine else (LINEAR, leading(n, 1000, 1))
    last = run(name, process, times)[-1]
    assert last.isfinite().all()


@ALL
def test_an_image_of_a_batch_equals_the_image_alone(name: str) -> None:
    def network(x: Tensor, t: float) -> Tensor:
        return crooked_eps(x, t, LINEAR)

    denoise = make_denoiser(network, LINEAR, epsilon)
    x = torch.randn(3, 4, 5, 5)
    times = leading(9, 1000, 1)
    together = [*sample(make_sampler(name, LINEAR), denoise, x, times, PerImageRng.from_seeds([7, 8, 9]))][-1].x
    for row in range(3):
        rng = PerImageRng.from_seeds([7 + row])
        alone = [*sample(make_sampler(name, LINEAR), denoise, x[row : row + 1], times, rng)][-1].x
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-6)


@ALL
def test_steps_say_where_they_are(name: str) -> None:
    times = leading(5, 1000, 1)
    x = torch.randn(1, 2, 3)
    steps = [*sample(make_sampler(name, LINEAR), Gaussian(LINEAR).denoise, x, times, PerImageRng.from_seeds([0]))]
    assert [s.index for s in steps] == list(range(5))
    assert {s.total for s in steps} == {5}
    assert [s.t for s in steps] == times
    assert [s.t_next for s in steps] == [*times[1:], -1]
    torch.testing.assert_close(steps[0].prediction.x0, Gaussian(LINEAR).denoise(x, times[0]).x0)


@ALL
def test_the_result_does_not_depend_on_the_working_dtype_of_x(name: str) -> None:
    x = torch.randn(1, 2, 3).half()
    denoise = Gaussian(LINEAR).denoise
    sampler = make_sampler(name, LINEAR)
    half = [*sample(sampler, denoise, x, [800, 400, 1], PerImageRng.from_seeds([0]))][-1].x
    full = [*sample(sampler, denoise, x.float(), [800, 400, 1], PerImageRng.from_seeds([0]))][-1].x
    double = [*sample(sampler, denoise, x.double(), [800, 400, 1], PerImageRng.from_seeds([0]))][-1].x
    assert half.dtype == torch.float32
    assert torch.equal(half, full)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), full, rtol=1e-5, atol=1e-5)


DRAWS = {"ddpm": 3, "euler_ancestral": 2, "renoise": 2, "dpmpp_2m_sde": 2}


@ALL
def test_draws_are_made_only_where_they_act(name: str) -> None:
    rng = ReplayRng([torch.randn(1, 2, 3) for _ in range(9)])
    [*sample(make_sampler(name, LINEAR), Gaussian(LINEAR).denoise, torch.randn(1, 2, 3), [900, 500, 1], rng)]
    assert rng.used == DRAWS.get(name, 0)


@pytest.mark.parametrize(("name", "options"), [("ddpm", {}), ("ddim", {"eta": 1.0})])
def test_the_last_step_may_be_without_noise(name: str, options: dict[str, Any]) -> None:
    """Then its mean is the result, also where the process does not end on a clean image."""
    process = LINEAR.ending_at_the_first()
    draws = [torch.randn(1, 2, 3) for _ in range(3)]
    denoise, times, x = Gaussian(process).denoise, [900, 500, 100], torch.randn(1, 2, 3)

    def last(variance: str, given: list[Tensor]) -> tuple[Tensor, int]:
        rng = ReplayRng(given)
        sampler = make_sampler(name, process, variance=variance, **options)
        return [*sample(sampler, denoise, x, times, rng)][-1].x, rng.used

    without, used = last("fixed_small_but_last", draws[:2])
    mean, all_used = last("fixed_small", [*draws[:2], torch.zeros(1, 2, 3)])
    assert (used, all_used) == (2, 3)
    torch.testing.assert_close(without, mean)
    assert not torch.allclose(without, last("fixed_small", draws)[0], atol=1e-3)


def test_renoising_ends_on_the_last_prediction() -> None:
    draws = [torch.randn(1, 2, 3) for _ in range(2)]
    steps = [
        *sample(
            make_sampler("renoise", LINEAR),
            Gaussian(LINEAR).denoise,
            torch.randn(1, 2, 3),
            [979, 479, 229],
            ReplayRng(draws),
        )
    ]
    for step, draw in zip(steps[:-1], draws, strict=True):
        torch.testing.assert_close(step.x, LINEAR.add_noise(step.prediction.x0, draw, step.t_next))
    assert steps[-1].x is steps[-1].prediction.x0


def test_eta_changes_the_image_and_is_refused_where_it_cannot() -> None:
    times = leading(10, 1000, 1)
    still, a, b = (run("ddim", LINEAR, times, eta=eta)[-1] for eta in (0.0, 0.3, 1.0))
    assert not torch.allclose(still, a)
    assert not torch.allclose(a, b)
    assert not torch.allclose(*(run("euler_ancestral", LINEAR, times, eta=eta)[-1] for eta in (0.0, 1.0)))
    torch.testing.assert_close(run("euler_ancestral", LINEAR, times, eta=0.0), run("euler", LINEAR, times))
    for name in SAMPLERS:
        with pytest.raises(RequestError, match="eta"):
            make_sampler(name, LINEAR, eta=1.5)
    for name in ("ddpm", "euler", "heun", "dpmpp_2m", "plms", "unipc"):
        with pytest.raises(RequestError, match=r"eta 0\.3"):
            make_sampler(name, LINEAR, eta=0.3)
    make_sampler("euler", LINEAR, eta=0.0)
    make_sampler("ddpm", LINEAR, eta=1.0)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("ddpm", 1.0),
        ("dpmpp_2m", 0.0),
        ("dpmpp_2m_sde", 1.0),
        ("euler", 0.0),
        ("heun", 0.0),
        ("plms", 0.0),
        ("renoise", 1.0),
        ("unipc", 0.0),
    ],
)
def test_only_a_sampler_s_own_eta_is_taken(name: str, own: float) -> None:
    make_sampler(name, LINEAR, eta=own)
    with pytest.raises(RequestError, match=f"eta {1 - own} cannot act in sampler '{name}', .* {own:g}"):
        make_sampler(name, LINEAR, eta=1 - own)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'ddim'"):
        make_sampler("dddim", LINEAR)
    with pytest.raises(RequestError, match="Did you mean 'learned_range'"):
        make_sampler("ddpm", LINEAR, variance="learned_rang")


def test_learned_variance_needs_variance_channels_and_acts() -> None:
    x = torch.randn(1, 2, 3)

    def with_frac(frac: float | None) -> Tensor:
        def denoise(x: Tensor, t: float) -> Prediction:
            plain = Gaussian(LINEAR).denoise(x, t)
            return Prediction(plain.x0, plain.eps, None if frac is None else torch.full_like(x, frac))

        sampler = make_sampler("ddpm", LINEAR, variance="learned_range")
        return next(iter(sample(sampler, denoise, x, [500, 450], PerImageRng.from_seeds([0])))).x

    rng = PerImageRng.from_seeds([0])
    small = next(iter(sample(make_sampler("ddpm", LINEAR), Gaussian(LINEAR).denoise, x, [500, 450], rng))).x
    torch.testing.assert_close(with_frac(0.0), small)
    assert not torch.allclose(with_frac(1.0), small, atol=1e-3)
    with pytest.raises(CheckpointError, match="variance channels"):
        with_frac(None)


@ALL
def test_projection_pins_after_every_step(name: str) -> None:
    known = torch.full((1, 2, 3), 0.25)
    mask = torch.tensor([1.0, 0.0, 0.0])
    seen: list[float] = []

    def project(x: Tensor, t_next: float) -> Tensor:
        seen.append(t_next)
        return mask * known + (1 - mask) * x

    rng = PerImageRng.from_seeds([0])
    sampler = make_sampler(name, LINEAR)
    steps = [*sample(sampler, Gaussian(LINEAR).denoise, torch.randn(1, 2, 3), [700, 300, 1], rng, project)]
    assert seen == [300, 1, -1]
    assert all(torch.equal(s.x[..., 0], known[..., 0]) for s in steps)
    assert not torch.equal(steps[-1].x[..., 1], known[..., 1])


class Witness:
    """A denoiser whose life can be watched."""

    def __call__(self, x: Tensor, t: float) -> Prediction:
        return Gaussian(LINEAR).denoise(x, t)


@ALL
def test_closing_frees_everything_at_once(name: str) -> None:
    witness = Witness()
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    watched = [weakref.ref(witness), weakref.ref(x)]
    steps = sample(make_sampler(name, LINEAR), witness, x, leading(9, 1000, 1), PerImageRng.from_seeds([0]))
    del witness, x
    gc.disable()
    try:
        for _ in range(3):
            step = next(steps)
        watched += [weakref.ref(step.x), weakref.ref(step.prediction.x0)]
        del step
        assert any(w() is not None for w in watched)
        steps.close()  # type: ignore[attr-defined]
        assert [w() for w in watched] == [None] * 4
    finally:
        gc.enable()
    with pytest.raises(StopIteration):
        next(steps)


def test_gradients_flow_only_when_asked_for_and_the_callers_mode_is_left_alone() -> None:
    weight = torch.ones((), requires_grad=True)

    def denoise(x: Tensor, t: float) -> Prediction:
        plain = Gaussian(LINEAR).denoise(x, t)
        return Prediction(plain.x0 * weight, plain.eps * weight)

    def last(**options: bool) -> Tensor:
        result = torch.zeros(())
        rng = PerImageRng.from_seeds([0])
        for step in sample(
            make_sampler("dpmpp_2m", LINEAR), denoise, torch.ones(1, 2, 3), [700, 300, 1], rng, **options
        ):
            assert torch.is_grad_enabled()
            result = step.x
        return result

    assert not last().requires_grad
    recorded = last(gradients=True)
    recorded.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs() > 0


@pytest.mark.parametrize("times", [[], [5, 5], [1, 2], [9, 3, 4]])
def test_times_that_do_not_fall_are_refused(times: list[int]) -> None:
    with pytest.raises(RequestError, match="times"):
        next(iter(sample(make_sampler("ddim", LINEAR), Witness(), torch.ones(1, 2, 3), times, ReplayRng([]))))


def test_times_outside_the_process_are_refused() -> None:
    with pytest.raises(RequestError, match="1000"):
        next(iter(sample(make_sampler("ddim", LINEAR), Witness(), torch.ones(1, 2, 3), [1000, 1], ReplayRng([]))))


def test_fractional_times_work_between_the_whole_ones() -> None:
    x = torch.ones(1, 2, 3)
    rng = PerImageRng.from_seeds([0])
    ends = [
        [*sample(make_sampler("ddim", LINEAR), Gaussian(LINEAR).denoise, x, [800, middle, 1], rng)][-1].x.mean().item()
        for middle in (400, 400.5, 401)
    ]
    assert all(a != b for a, b in pairwise(ends))
    assert min(ends[0], ends[2]) < ends[1] < max(ends[0], ends[2])


@ALL
def test_latents_sent_into_the_loop_take_the_place_of_its_own(name: str) -> None:
    def trajectory(x: Tensor, times: list[int]) -> Generator[Step, Tensor | None, None]:
        denoise = Gaussian(LINEAR).denoise
        return sample(make_sampler(name, LINEAR), denoise, x, times, PerImageRng.from_seeds([1]))

    begin = torch.ones(1, 2, 3)
    kept, changed = trajectory(begin, [900, 500]), trajectory(begin, [900, 500])
    first, other = next(kept), next(changed)
    assert torch.equal(first.x, other.x)
    assert not torch.allclose(kept.send(None).x, changed.send(3 * other.x).x)


def test_sent_latents_are_what_the_next_step_starts_from() -> None:
    denoise, rng = Gaussian(LINEAR).denoise, PerImageRng.from_seeds([1])
    sampler, wanted = make_sampler("ddim", LINEAR), torch.full((1, 2, 3), 0.5)
    run = sample(sampler, denoise, torch.ones(1, 2, 3), [900, 500], rng)
    next(run)
    assert torch.equal(run.send(wanted.double()).x, next(sample(sampler, denoise, wanted, [500], rng)).x)
