"""What a schedule makes of steps and strengths."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.compat.kandinsky2.facade import shared
from kandinsky.core.errors import RequestError
from kandinsky.diffusion.constraints import Constraint
from kandinsky.diffusion.parametrization import Prediction, eps_of
from kandinsky.diffusion.process import Process
from kandinsky.diffusion.schedule import ImageNoise, Schedule

PROCESS = Process.linear(0.00085, 0.012)
OTHER = Process.linear(0.0001, 0.02)


def test_sections_say_which_times() -> None:
    plain = Schedule(PROCESS, spacing="respaced")
    implicit = Schedule(PROCESS, spacing="respaced", sections="ddim{}")
    literal = Schedule(PROCESS, spacing="respaced", sections="10,5")
    assert plain.times(5) == [999, 749, 500, 250, 0]
    assert implicit.times(5) == [801, 601, 401, 201, 1]
    assert len(implicit.times(7)) == 8
    assert literal.times(3) == literal.times(300)
    assert len(literal.times(3)) == 15


@given(steps=st.integers(1, 1000), sections=st.sampled_from(["{}", "ddim{}"]))
@settings(max_examples=60, deadline=None)
def test_any_number_of_steps_has_times(steps: int, sections: str) -> None:
    times = Schedule(PROCESS, spacing="respaced", sections=sections).times(steps)
    assert times
    assert all(0 <= later < earlier < 1000 for earlier, later in pairwise(times))


def test_images_are_noised_for_the_first_time_that_is_left() -> None:
    begin = Schedule(PROCESS, offset=1).beginning(10, 0.35)
    assert (begin.times, begin.t, begin.process) == ([201, 101, 1], 201, PROCESS)


def test_images_may_be_noised_to_a_level_of_their_own() -> None:
    schedule = Schedule(PROCESS, offset=1, image_noise=ImageNoise(OTHER, back=2))
    begin = schedule.beginning(10, 0.35)
    assert (begin.times, begin.t, begin.process) == ([201, 101, 1], 348, OTHER)
    assert schedule.beginning(10, 1.0).t == 998


def test_times_may_be_kept_by_that_level() -> None:
    noise = ImageNoise(OTHER, back=1, by_level=True)
    schedule = Schedule(PROCESS, spacing="respaced", sections="ddim{}", image_noise=noise)
    begin = schedule.beginning(7, 0.5)
    assert (begin.times, begin.t) == ([427, 285, 143, 1], 499)
    assert schedule.beginning(7, 0.1435).times == [143, 1]


@given(strength=st.floats(1e-6, 1.0), back=st.integers(1, 2), by_level=st.booleans())
@settings(max_examples=60, deadline=None)
def test_small_strengths_neither_wrap_nor_leave_noise_behind(strength: float, back: int, by_level: bool) -> None:
    schedule = Schedule(PROCESS, offset=1, image_noise=ImageNoise(OTHER, back=back, by_level=by_level))
    begin = schedule.beginning(10, strength)
    assert begin.times
    assert 0 <= begin.t <= 999
    if strength < 0.1:
        assert begin.t <= begin.times[0]


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_strengths_that_mean_nothing(strength: float) -> None:
    with pytest.raises(RequestError, match="is outside"):
        Schedule(PROCESS).beginning(10, strength)


def test_tables_of_double_precision() -> None:
    exact = Process.squared_cosine(dtype=torch.float64)
    assert exact.alpha_bar.dtype == torch.float64
    assert exact.beta_between(900, 800) == 1 - exact.alpha_bar_at(900) / exact.alpha_bar_at(800)
    rounded = Process.squared_cosine()
    assert rounded.beta_between(900, 800) != exact.beta_between(900, 800)
    stopped = exact.ending_at_the_first()
    assert stopped.alpha_bar_at(-1) == exact.alpha_bar_at(0) < exact.alpha_bar_at(-1) == 1


def test_the_known_region_is_pasted_at_its_place() -> None:
    x, x0 = torch.randn(2, 4, 3, 3), 5 * torch.randn(2, 4, 3, 3)
    prediction = Prediction(x0, eps_of(x0, x, 0.5))

    def paste(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(value[..., :1], 3.0), value[..., 1:]], dim=-1)

    clamp, known = Constraint("static", limit=1.0), Constraint("replace_known_region", rederive_eps=True)
    before, after = prediction, prediction
    for constraint in (known, clamp):
        before = constraint.apply(before, x, 0.5, paste)
    for constraint in (clamp, known):
        after = constraint.apply(after, x, 0.5, paste)
    assert before.x0.max() <= 1
    assert torch.equal(after.x0[..., 0], torch.full((2, 4, 3), 3.0))
    torch.testing.assert_close(after.eps, eps_of(after.x0, x, 0.5))


def test_a_bound_may_be_that_of_the_first_image() -> None:
    x0 = torch.stack([torch.linspace(-2, 2, 36).reshape(4, 3, 3), torch.full((4, 3, 3), 9.0)])
    prediction = Prediction(x0, x0)
    of_first = shared(Constraint("percentile", max=100.0)).apply(prediction, x0, 0.5).x0
    each = Constraint("percentile", max=100.0).apply(prediction, x0, 0.5).x0
    torch.testing.assert_close(of_first[0], each[0])
    assert torch.equal(of_first[1], torch.ones(4, 3, 3))
    torch.testing.assert_close(each[1], torch.ones(4, 3, 3))
    alone = shared(Constraint("percentile", max=100.0)).apply(Prediction(x0[1:], x0[1:]), x0[1:], 0.5)
    torch.testing.assert_close(alone.x0, each[1:])


def short(steps: int) -> Process:
    return Process.squared_cosine(steps, torch.float64)


@pytest.mark.parametrize(("steps", "first"), [(1, 0), (30, 957), (50, 980), (75, 962), (1000, 999)])
def test_a_process_may_be_made_for_the_steps(steps: int, first: int) -> None:
    schedule = Schedule(short(1000), process_of=short)
    taken = schedule.taken(steps)
    times = taken.times(steps)
    assert (times, times[0], times[-1]) == (schedule.times(steps), first, 0)
    found = [taken.process.alpha_bar_at(t) for t in reversed(times)]
    assert found == short(steps).alpha_bar.tolist()
    betas = [taken.process.beta_between(*pair) for pair in pairwise([*times, -1])]
    torch.testing.assert_close(torch.tensor(betas[::-1], dtype=torch.float64), short(steps).betas)
    assert (taken.process.alpha_bar.diff() < 0).all()
    assert taken.taken(steps) is taken


def test_only_such_a_process_depends_on_the_steps() -> None:
    schedule = Schedule(PROCESS)
    assert schedule.taken(7) is schedule
    with pytest.raises(RequestError, match="1001 steps"):
        Schedule(short(1000), process_of=short).taken(1001)


def test_a_checkpoint_made_for_few_times() -> None:
    few = Schedule(PROCESS, only=(979, 729, 479, 229))
    assert few.times(4) == [979, 729, 479, 229]
    assert few.beginning(4, 0.5).times == [479, 229]
