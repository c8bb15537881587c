"""The losses of distillation into few steps, against their formulas."""

import math
from typing import Any

import pytest
import torch
from small import CPU
from torch import Tensor

from kandinsky.core.errors import ConfigError
from kandinsky.diffusion.parametrization import PARAMETRIZATIONS, Prediction
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.samplers import make_sampler
from kandinsky.diffusion.times import trailing
from kandinsky.training.config.objectives import DistillObjective
from kandinsky.training.objectives.distillation import (
    SolverTimes,
    consistency_errors,
    guided,
    solve_to,
    trajectory_errors,
)

PROCESS = Process.linear(0.00085, 0.012)


def rungs(steps: int, solver_steps: int) -> SolverTimes:
    return SolverTimes.of(PROCESS, steps, solver_steps, CPU)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_landing_is_the_step_of_the_sampler(kind: Any) -> None:
    """Of `ddim`, which draws the student's images, with the parametrization that belongs to the network."""
    of = rungs(2, 8)
    parametrization = PARAMETRIZATIONS[{"eps": "epsilon", "x0": "sample", "v": "velocity"}[kind]]
    x, said = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    sampler = make_sampler("ddim", PROCESS)
    times = [*trailing(8, 1000), -1]
    for first, last in [(0, 4), (4, 8), (3, 4), (7, 8)]:

        def denoise(x: Tensor, t: float) -> Prediction:
            return parametrization(said, x, PROCESS.alpha_bar_at(t))

        wanted, _, _ = sampler.step(denoise, x, times[first], times[last], None, None, last == 8)  # type: ignore[arg-type]
        rung, to = (torch.full((2,), r) for r in (first, last))
        torch.testing.assert_close(solve_to(of, kind, said, x, rung, to), wanted, rtol=1e-4, atol=1e-4)


def test_a_step_to_where_it_begins_changes_nothing() -> None:
    """The boundary condition, and c_skip and c_out as the docstring gives them."""
    of, x, eps = rungs(1, 4), normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    rung = torch.tensor([0, 1, 3])
    torch.testing.assert_close(solve_to(of, "eps", eps, x, rung, rung), x, rtol=1e-5, atol=1e-5)
    to = torch.tensor([2, 4, 4])
    now, then = of.alpha_bar[rung], of.alpha_bar[to]
    skip = (then / now).sqrt()
    out = (1 - then).sqrt() - skip * (1 - now).sqrt()
    wanted = skip[:, None, None, None] * x + out[:, None, None, None] * eps
    torch.testing.assert_close(solve_to(of, "eps", eps, x, rung, to), wanted, rtol=1e-4, atol=1e-4)


def test_the_error_on_a_trajectory_is_that_of_the_landing() -> None:
    of, objective = rungs(2, 4), DistillObjective(loss="huber", huber_c=0.3, steps=2, solver_steps=4)
    x, target = normal(2, 4, 2, 2).float(), normal(2, 4, 2, 2, seed=1).float()
    requested: list[Tensor] = []

    def says(x: Tensor, t: Tensor) -> Tensor:
        requested.append(t)
        return torch.cat([0.5 * x, 100 * x], dim=1)

    found = trajectory_errors(of, "eps", says, objective, x, torch.tensor([0, 1]), target)
    assert requested[0].tolist() == [999, 499]
    for row, (t, t_next) in enumerate([(999, 499), (499, -1)]):
        abar, after = PROCESS.alpha_bar_at(t), PROCESS.alpha_bar_at(t_next)
        eps = 0.5 * x[row]
        x0 = (x[row] - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        error = math.sqrt(after) * x0 + math.sqrt(1 - after) * eps - target[row]
        wanted = (2 * 0.3 * ((error**2 + 0.3**2).sqrt() - 0.3)).mean()
        assert float(found[row]) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_consistency_compares_with_what_is_said_one_teacher_step_later(steps: int) -> None:
    """From each rung of four: the teacher steps, the student lands from there, without a gradient."""
    of, objective = rungs(steps, 4), DistillObjective(loss="mse", steps=steps, solver_steps=4)
    x, rung = normal(4, 4, 2, 2).float(), torch.arange(4)
    weight = torch.tensor(0.5, requires_grad=True)
    times = [*trailing(4, 1000), -1]

    def student(x: Tensor, t: Tensor) -> Tensor:
        return weight * x * (1 + t.reshape(-1, 1, 1, 1) / 1000)

    def step(x: Tensor, eps: Tensor, t: int, t_next: int) -> Tensor:
        abar, after = PROCESS.alpha_bar_at(t), PROCESS.alpha_bar_at(t_next)
        x0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        return math.sqrt(after) * x0 + math.sqrt(1 - after) * eps

    found = consistency_errors(of, "eps", student, lambda x, t: 0.9 * x, objective, x, rung)
    wanted = []
    for row in range(4):
        end = 4 if steps == 1 or row >= 2 else 2
        led = step(x[row], 0.9 * x[row], times[row], times[row + 1])
        if row + 1 < end:
            said = 0.5 * led * (1 + times[row + 1] / 1000)
            led = step(led, said, times[row + 1], times[end])
        mine = step(x[row], weight * x[row] * (1 + times[row] / 1000), times[row], times[end])
        wanted.append((mine - led).square().mean())
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    (by_hand,) = torch.autograd.grad(torch.stack(wanted).sum(), weight)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-3, atol=1e-3)


def test_a_guided_teacher_goes_from_the_empty_condition_through_the_given_one() -> None:
    requested: list[bool] = []

    def teacher(x: Tensor, t: Tensor, empty: bool) -> Tensor:
        requested.append(empty)
        return x if empty else 3 * x

    x, t = torch.ones(1, 1, 1, 1), torch.zeros(1)
    assert float(guided(teacher, 4.0)(x, t)) == 1 + 4 * (3 - 1)
    assert float(guided(teacher, 1.0)(x, t)) == 3
    assert sorted(requested) == [False, False, True]


def test_rungs_are_those_that_requests_visit() -> None:
    for steps in (1, 2, 3, 4, 6, 8):
        for more in (2, 3, 4, 5):
            of = rungs(steps, steps * more)
            assert of.times[:: of.stride].tolist() == trailing(steps, 1000)
    with pytest.raises(ConfigError, match="do not divide"):
        rungs(4, 6)
