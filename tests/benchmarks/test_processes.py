"""Processes that answer, fail and end; and a whole run of this library alone."""

import sys
from pathlib import Path

import pytest

from benchmarks.against_diffusers.processes import BenchError, Child, run_once
from benchmarks.against_diffusers.request import Asked, Job
from benchmarks.against_diffusers.run import Plan, _check_room, run
from benchmarks.against_diffusers.workloads import WORKLOADS


def test_a_failing_order_is_told_and_the_process_lives(tmp_path: Path) -> None:
    missing = Job("ours", str(tmp_path / "nowhere"), Asked())
    with Child(tmp_path / "log", 1, "cpu") as child:
        with pytest.raises(BenchError, match="nowhere"):
            child.ask("load", job=missing.to_json())
        assert child.ask("rate", dtype="float32", side=128)["rate"] > 1e6
        assert child.ask("peak")["peak"] > 2**24
        child._process.kill()
        with pytest.raises(BenchError, match="ended with code"):
            child.ask("peak")


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="'cuda:97' is not on this machine"):
        run(Plan(("movq-512",), ("ours",), device="cuda:97", quick=True), lambda _: None)


def test_a_command_is_measured_or_its_words_are_told(tmp_path: Path) -> None:
    seconds, peak = run_once([sys.executable, "-c", "b = bytearray(2**26)"], tmp_path / "log", 1)
    assert seconds > 0
    # Where the system starts a process as a copy of this one, its peak begins at this one's.
    assert 2**26 < peak < 2**32
    with pytest.raises(BenchError, match="no such thing"):
        run_once([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log", 1)


@pytest.mark.slow
def test_a_whole_run_of_one_side(tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan(("movq-512",), ("ours",), runs=2, threads=1, quick=True, weights=tmp_path)
    kept: list[int] = []
    results = run(plan, said.append, lambda sofar: kept.append(len(sofar.rows)))
    assert kept == [1]
    assert results.skipped == []
    (row,) = results.rows
    assert (row.pairing, row.ratio, list(row.sides)) == ("default", None, ["ours"])
    ours = row.sides["ours"]
    assert len(ours.seconds) == 2
    assert ours.peak > 2**26
    assert ours.operations > 0
    assert set(results.rates) == {"float32", "bfloat16"}
    assert (tmp_path / "quick" / "movq" / "model_index.json").is_file()
    assert said == ["movq-512: random weights of movq", "movq-512, default: ours"]


@pytest.mark.slow
def test_a_whole_run_of_everything(tmp_path: Path) -> None:
    results = run(Plan(runs=1, threads=1, quick=True, weights=tmp_path), lambda _: None)
    assert [label for label, _ in results.skipped] == ["inpaint-1, the peer", "inpaint-8, the peer"]
    assert all(row.ratio is not None for row in results.rows if not row.workload.peer_lacks)


def test_what_does_not_fit_is_left_out() -> None:
    asked: list[str] = []

    class Full:
        """Stands for a machine with little free memory."""

        def ask(self, do: str) -> dict[str, int]:
            asked.append(do)
            return {"free": 6 * 2**30}

    prior = WORKLOADS["prior-2.2"]
    _check_room(prior, "bfloat16", 2, Full())  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="about 10 GiB, 6 GiB are free"):
        _check_room(prior, "float32", 2, Full())  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="20 GiB"):
        _check_room(WORKLOADS["memory-2.2"], "default", 2, Full())  # type: ignore[arg-type]
    assert asked == ["machine"] * 3
