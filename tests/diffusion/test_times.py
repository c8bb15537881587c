"""Times: every count works, stays in the table and falls; the known lists are met."""

from itertools import pairwise

import diffusers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky.core.errors import RequestError
from kandinsky.diffusion.times import counted_down, leading, linspaced, respaced, tail, thinned, trailing

T = 1000


def assert_fall_inside(times: list[int], count: int) -> None:
    assert len(times) == count
    assert all(type(t) is int and 0 <= t < T for t in times)
    assert all(later < earlier for earlier, later in pairwise(times))


def test_every_count_falls_strictly_inside_the_table() -> None:
    for n in range(1, T + 1):
        for times in (leading(n, T, 0), leading(n, T, 1), linspaced(n, T), trailing(n, T), respaced(str(n), T)):
            assert_fall_inside(times, n)


@given(T=st.integers(1, 300), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_table_size_works(T: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, T))
    offset = data.draw(st.integers(0, 5))
    for times in (leading(n, T, offset), linspaced(n, T), trailing(n, T), respaced(str(n), T)):
        assert len(set(times)) == n
        assert times == sorted(times, reverse=True)
        assert 0 <= times[-1] <= times[0] < T


def test_leading_and_trailing_equal_diffusers() -> None:
    for n in (1, 2, 7, 25, 50, 75, 100, 300, 999):
        reference = diffusers.DDIMScheduler(steps_offset=1, timestep_spacing="leading")
        reference.set_timesteps(n)
        assert leading(n, T, 1) == reference.timesteps.tolist()
        reference = diffusers.DDIMScheduler(timestep_spacing="trailing")
        reference.set_timesteps(n)
        assert trailing(n, T) == reference.timesteps.tolist()


def test_leading_gives_up_an_offset_that_has_no_room() -> None:
    assert leading(1000, T, 1) == list(range(999, -1, -1))
    assert leading(10, 10, 3) == list(range(9, -1, -1))
    assert leading(2, 10, 30) == [9, 4]


def test_linspaced_equals_diffusers_and_gives_pure_noise_for_one_step() -> None:
    for n in (2, 3, 5, 25, 31, 59, 250, 1000):
        reference = diffusers.schedulers.UnCLIPScheduler()
        reference.set_timesteps(n)
        assert linspaced(n, T) == reference.timesteps.tolist()
    assert linspaced(25, T)[:5] == [999, 957, 916, 874, 832]
    assert linspaced(1, T) == [999]


def test_respaced_knows_the_published_lists() -> None:
    assert respaced("5", T) == [999, 749, 500, 250, 0]
    assert respaced("25", T)[::-1][:7] == [0, 42, 83, 125, 166, 208, 250]
    assert respaced("1", T) == [999]
    assert respaced("10,5", T) == [999, 874, 750, 625, 500, 499, 444, 388, 333, 277, 222, 166, 111, 55, 0]
    assert respaced("ddim25", T) == list(range(961, 0, -40))
    assert len(respaced("ddim7", T)) == 8
    # A running sum drifts, so these counts differ from an even spread and others do not.
    assert respaced("21", T) != linspaced(21, T)
    assert respaced("50", T) == linspaced(50, T)
    differing = [n for n in range(2, T + 1) if respaced(str(n), T) != linspaced(n, T)]
    assert len(differing) == 278
    assert differing[:8] == [21, 23, 31, 35, 39, 43, 45, 59]


def test_ddim_strings_never_leave_the_table() -> None:
    for n in range(1, T + 1):
        times = respaced(f"ddim{n}", T)
        assert_fall_inside(times, len(times))


@pytest.mark.parametrize("bad", ["", "fast27", "ddim", "ddim0", "0", "-3", "1001", "10,x", "600,10", "2.5"])
def test_respaced_refuses_what_it_does_not_understand(bad: str) -> None:
    with pytest.raises(RequestError, match="step"):
        respaced(bad, T)


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_counts_outside_the_table_are_refused(n: int) -> None:
    for spaced in (linspaced, trailing, leading):
        with pytest.raises(RequestError, match=str(n)):
            spaced(n, T)


def test_tail_keeps_what_diffusers_keeps_and_never_nothing() -> None:
    times = leading(50, T, 1)
    assert tail(times, 1.0) == times
    assert tail(times, 0.3) == times[35:]
    assert tail(times, 0.001) == times[-1:]
    for bad in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(RequestError, match="strength"):
            tail(times, bad)


@given(n=st.integers(1, 200), strength=st.floats(1e-6, 1.0))
def test_tail_is_an_end_of_the_times(n: int, strength: float) -> None:
    times = leading(n, T, 1)
    kept = tail(times, strength)
    assert kept == times[-len(kept) :]
    assert len(kept) == max(1, int(n * strength))


@pytest.mark.parametrize(
    ("n", "last", "count"), [(1, 999, 1), (30, 13, 30), (50, 19, 50), (60, 13, 59), (333, 3, 250), (1000, 1, 999)]
)
def test_counting_down_leaves_time_0_out(n: int, last: int, count: int) -> None:
    times = counted_down(n, T)
    assert_fall_inside(times, count)
    assert (times[0], times[-1]) == (999, last)


def test_counting_down_takes_any_count() -> None:
    for n in range(1, T + 1):
        times = counted_down(n, T)
        assert times[0] == T - 1
        assert times[-1] > 0
    assert counted_down(1, 1) == [0]
    with pytest.raises(RequestError, match="1001 steps"):
        counted_down(1001, T)


def test_few_times_are_thinned() -> None:
    times = [979, 729, 479, 229]
    assert [thinned(times, n) for n in (1, 2, 3, 4)] == [[979], [979, 479], [979, 729, 479], times]
    with pytest.raises(RequestError, match=r"5 steps cannot be taken from the 4 times.*Use 1 to 4 steps"):
        thinned(times, 5)
